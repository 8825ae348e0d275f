"""The pipe to the browser, with a program in its place that answers what it is asked."""

import subprocess
import sys
from pathlib import Path

ANSWERS = """#!{python}
import json, os
left = b""
while content := os.read(3, 65536):
    *messages, left = (left + content).split(b"\\0")
    for message in map(json.loads, messages):
        reply = {{"id": message["id"], "result": {{"targetId": "t", "sessionId": "s", "method": message["method"]}}}}
        os.write(4, json.dumps(reply).encode() + b"\\0")
"""
ASKS = """
import os, sys
from pathlib import Path
from tests.server import browser
for place in range(int(sys.argv[3])):
    os.dup2(os.open("/dev/null", os.O_RDONLY), place + 3)
browser.CHROMIUM = sys.argv[1]
with browser.browser(Path(sys.argv[2])) as page:
    print(page.call("Some.thing")["method"])
"""


def test_pipes_reach_the_browser_whichever_places_are_free(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(ANSWERS.format(python=sys.executable))
    program.chmod(0o755)
    for num_taken in range(3):
        command = [sys.executable, "-c", ASKS, program, tmp_path, str(num_taken)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout) == (0, "Some.thing\n"), done.stderr
