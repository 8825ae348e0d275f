"""A contestant of `hanbit bench generate`: llama.cpp's own `llama-bench`, a process for each turn.

    python -m hanbit.bench.llama_bench_worker SETTINGS.json

SETTINGS: {"folder" of its programs, "threads", "file", "depth": tokens that are there before, "prompt_tokens" read or
"new_tokens" made}. Its tokens are random, which costs it nothing; seconds are those that it reports, without loading.
"""

import json
import sys
from pathlib import Path

from hanbit.bench.llama_cpp import BENCH, LlamaCpp


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    peer = LlamaCpp(Path(settings["folder"]), settings["threads"])
    print(json.dumps({"ready": "llama.cpp", "threads": peer.threads}), flush=True)
    for line in sys.stdin:
        flags = ["-m", settings["file"], "-t", str(peer.threads), "-r", str(json.loads(line)["steps"])]
        for flag, key in (("-p", "prompt_tokens"), ("-n", "new_tokens"), ("-d", "depth")):
            flags += [flag, str(settings[key])]
        said = peer.run(BENCH, *flags, "-o", "json")
        (found,) = json.loads(said)
        print(json.dumps({"seconds": sum(found["samples_ns"]) / 1e9, "results": []}), flush=True)


if __name__ == "__main__":
    main()
