"""The page at `/`, in a real browser against a real server: a talk, its keys, two languages, nothing from outside."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx2
import pytest

from hanbit.engine.llm import LLM
from hanbit.engine.sampling_params import SamplingParams
from hanbit.repository.deploy import deploy
from hanbit.server.frontends.page import FILES
from tests.server.browser import Page, browser, needs_chromium
from tests.server.openai_server import TEMPLATE
from tests.server.served import Served, serving

SHIFT = 8
TALKING = "document.querySelector('article.assistant')"


@pytest.fixture(scope="module")
def chat_repository(model_folder: Path, adapter_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that can chat, an adapter of it, and a model that cannot be loaded."""
    folder, repository = tmp_path_factory.mktemp("chat"), tmp_path_factory.mktemp("repository")
    for file in model_folder.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    deploy(folder, "small", repository, {"tuned": adapter_folder})
    (repository / "broken/1").mkdir(parents=True)
    (repository / "broken/config.pbtxt").write_text('backend: "<b>nobody</b>"')
    return repository


@pytest.fixture(scope="module")
def chat_served(chat_repository: Path) -> Iterator[Served]:
    with serving(chat_repository, fail_if_a_model_fails=False) as found:
        yield found


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(tab: Page, chat_served: Served) -> Page:
    """Freshly opened in English, nothing remembered, with greedy answers of 12 tokens."""
    tab.open(chat_served.url + "/")
    tab.evaluate("localStorage.clear()")
    tab.open(chat_served.url + "/?again")
    tab.requests.clear()
    tab.problems.clear()
    set_fields(tab, temperature="0", max_tokens="12")
    tab.wait("document.querySelector('input[name=model]:checked') !== null")
    return tab


def set_fields(page: Page, **values: str) -> None:
    for name, value in values.items():
        id = name.replace("_", "-")
        page.evaluate(f"{{ const one = document.getElementById('{id}'); one.value = '{value}'; one.oninput() }}")


def say(page: Page, text: str) -> None:
    page.evaluate("document.getElementById('words').focus()")
    page.type(text)
    page.press("Enter", 13, "\r")


def wait_for_answer(page: Page) -> str:
    page.wait(f"{TALKING}?.ariaBusy === 'false'")
    return page.evaluate(f"{TALKING}.querySelector('.text').textContent")


def greedy_chat(llm: LLM, text: str) -> str:
    """The same folder has no template: it is written by hand."""
    prompt = llm.tokenizer.encode(f"<user>{text}\n<assistant>", add_special_tokens=False)
    return llm.generate([prompt], SamplingParams(temperature=0, max_tokens=12))[0].text


def test_files_name_no_other_address_and_are_part_of_the_package() -> None:
    folder = files("hanbit.server").joinpath("page")
    names = {name for name, _ in FILES.values()}
    assert names == {file.name for file in folder.iterdir()}
    for name in names:
        text = folder.joinpath(name).read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"https?:|url\(|@import|[\"'(]//", text), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|\bon\w+=\"", text), name
        assert " style=" not in text, name
    data = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["hanbit"]
    assert "server/page/*" in data


def test_both_languages_have_the_same_words_and_the_page_uses_no_other() -> None:
    script = files("hanbit.server").joinpath("page", "app.js").read_text(encoding="utf-8")
    english, korean = re.findall(r"^  (?:en|ko): \{\n(.*?)^  \},", script, re.MULTILINE | re.DOTALL)
    names = [re.findall(r"(?:^|, |,\n)\s*(\w+): ['\"\[]", text) for text in (english, korean)]
    assert sorted(names[0]) == sorted(names[1])
    html = files("hanbit.server").joinpath("page", "index.html").read_text(encoding="utf-8")
    used = set(re.findall(r'data-(?:word|placeholder|label)="(\w+)"', html)) | set(
        re.findall(r"word\('(\w+)'\)", script)
    )
    assert used <= set(names[0])


@pytest.mark.parametrize("path", FILES)
def test_files_come_with_a_policy_that_allows_only_this_server(chat_served: Served, path: str) -> None:
    response = httpx2.get(chat_served.url + path)
    assert response.status_code == 200
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert set(policy.values()) == {"'none'", "'self'"}
    assert response.headers["x-content-type-options"] == "nosniff"
    again = httpx2.get(chat_served.url + path, headers={"If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_state_has_every_model_and_counts_of_engines(chat_served: Served) -> None:
    def state() -> Any:
        return httpx2.get(f"{chat_served.url}/page/state").json()

    before = state()
    models = {model["name"]: model for model in before["models"]}
    assert set(models) >= {"small", "tuned", "small_tokenize", "small_model", "small_detokenize", "broken"}
    assert models["small"]["engine"] == models["tuned"]["engine"] == 0
    assert (models["small"]["is_adapter"], models["tuned"]["is_adapter"]) == (False, True)
    assert (models["small"]["state"], models["small_tokenize"]["engine"]) == ("READY", None)
    assert models["broken"]["state"] == "UNAVAILABLE"
    assert "nobody" in models["broken"]["reason"]
    body = {"model": "small", "prompt": "The", "max_tokens": 5, "ignore_eos": True}
    assert httpx2.post(f"{chat_served.url}/v1/completions", json=body).status_code == 200
    (one,), (other,) = before["engines"], state()["engines"]
    assert other["generated_tokens"] == one["generated_tokens"] + 5
    assert other["finished"] == one["finished"] + 1
    assert other["can_chat"] is True


def test_with_a_key_the_page_opens_and_shows_nothing_without_it(chat_repository: Path) -> None:
    with serving(chat_repository, api_key="secret", fail_if_a_model_fails=False) as served:
        assert httpx2.get(served.url + "/").status_code == 200
        assert httpx2.get(served.url + "/page/state").status_code == 401
        key = {"Authorization": "Bearer secret"}
        assert httpx2.get(served.url + "/page/state", headers=key).status_code == 200


@needs_chromium
def test_a_talk_is_streamed_into_the_page_and_nothing_comes_from_outside(
    page: Page, chat_served: Served, llm: LLM
) -> None:
    say(page, "안녕 fox")
    assert wait_for_answer(page) == greedy_chat(llm, "안녕 fox")
    figures = page.evaluate(f"{TALKING}.querySelector('footer').textContent")
    assert re.search(r"[\d,]+ ms to the first token([\d,.]+ tokens/s)?12 tokenscut at the most tokens", figures)
    assert page.evaluate("document.querySelector('article.user .text').textContent") == "안녕 fox"
    assert page.evaluate("document.activeElement.id") == "words"
    assert page.problems == []
    assert any(url.endswith("/v1/chat/completions") for url in page.requests)
    assert all(url.startswith(chat_served.url) for url in page.requests)


@needs_chromium
def test_a_second_message_carries_the_talk_and_a_new_chat_forgets_it(page: Page, llm: LLM) -> None:
    say(page, "dog")
    first = wait_for_answer(page)
    say(page, "fox")
    page.wait("document.querySelectorAll('article.assistant')[1]?.ariaBusy === 'false'")
    talk = f"<user>dog\n<assistant>{first}\n<user>fox\n<assistant>"
    prompt = llm.tokenizer.encode(talk, add_special_tokens=False)
    wanted = llm.generate([prompt], SamplingParams(temperature=0, max_tokens=12))[0].text
    assert page.evaluate("document.querySelectorAll('article.assistant .text')[1].textContent") == wanted
    page.evaluate("document.getElementById('again').click()")
    assert page.evaluate("document.querySelectorAll('article').length") == 0
    say(page, "fox")
    assert wait_for_answer(page) == greedy_chat(llm, "fox")


@needs_chromium
def test_the_chosen_model_and_the_settings_are_used_and_remembered(page: Page, chat_served: Served, llm: LLM) -> None:
    set_fields(page, system="Be kind.")
    page.evaluate("document.querySelector('input[value=tuned]').click()")
    page.open(chat_served.url + "/?later")
    page.wait("document.querySelector('input[name=model]:checked')?.value === 'tuned'")
    say(page, "fox")
    prompt = llm.tokenizer.encode("<system>Be kind.\n<user>fox\n<assistant>", add_special_tokens=False)
    wanted = llm.generate([prompt], SamplingParams(temperature=0, max_tokens=12), adapter="tuned")[0].text
    assert wait_for_answer(page) == wanted


@needs_chromium
def test_stopping_ends_the_work_in_the_server(page: Page, chat_served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    answering = chat_served.catalogue.language_models()["small"].service.llm
    monkeypatch.setattr(answering, "defaults", replace(answering.defaults, end_ids=frozenset()))  # talks on and on
    set_fields(page, max_tokens="16000")
    say(page, "fox")
    page.wait(f"{TALKING}.querySelector('footer').textContent.includes('tokens/s')")  # talks for a while
    assert chat_served.running() == 1
    page.evaluate("document.getElementById('stop').click()")
    wait_for_answer(page)
    figures = page.evaluate(f"{TALKING}.querySelector('footer').textContent")
    assert re.search(r"first token[\d,.]+ tokens/s[\d,]+ tokensstopped$", figures), figures
    chat_served.wait_until_idle()
    assert page.evaluate("document.getElementById('stop').hidden")


@needs_chromium
def test_enter_that_ends_a_syllable_sends_nothing_and_shift_enter_makes_a_line(page: Page) -> None:
    page.evaluate("document.getElementById('words').focus()")
    page.call("Input.imeSetComposition", text="한", selectionStart=1, selectionEnd=1)
    page.press("Process", 229)
    page.evaluate(
        "document.getElementById('words').dispatchEvent("
        "new KeyboardEvent('keydown', {key: 'Enter', keyCode: 13, isComposing: true, bubbles: true}))"
    )
    assert page.evaluate("document.querySelectorAll('article').length") == 0
    page.type("한")
    page.press("Enter", 13, "\r", SHIFT)
    page.type("빛")
    assert page.evaluate("document.getElementById('words').value") == "한\n빛"
    assert page.evaluate("document.querySelectorAll('article').length") == 0
    page.press("Enter", 13, "\r")
    wait_for_answer(page)
    assert page.evaluate("document.querySelector('article.user .text').textContent") == "한\n빛"


@needs_chromium
def test_what_a_model_says_is_text_and_never_markup(page: Page) -> None:
    hostile = "<img src=x onerror=document.title=1><script>document.title=2</script>"
    page.evaluate(f"""
        const real = window.fetch
        window.fetch = (url, options) => url !== '/v1/chat/completions' ? real(url, options) : Promise.resolve(
          new Response('data: ' + JSON.stringify({{choices: [{{delta: {{content: {hostile!r}}}}}]}}) + '\\n\\n'))
    """)
    say(page, hostile)
    assert wait_for_answer(page) == hostile
    assert page.evaluate("document.querySelectorAll('article img, article script').length") == 0
    assert page.evaluate("document.querySelector('#engines').textContent").count("<b>nobody</b>") == 1
    assert page.evaluate("document.title") == "Hanbit"


@needs_chromium
def test_the_page_speaks_the_browsers_language_until_another_is_chosen(page: Page, chat_served: Served) -> None:
    page.open(chat_served.url + "/?korean", "ko-KR")
    assert page.evaluate("document.documentElement.lang") == "ko"
    assert page.evaluate("document.getElementById('words').placeholder") == "메시지를 입력하세요"
    page.wait("document.querySelector('.state')?.textContent === '준비됨'")
    page.evaluate("document.getElementById('language').click()")
    page.open(chat_served.url + "/?english", "ko-KR")
    assert page.evaluate("document.documentElement.lang") == "en"


@needs_chromium
def test_a_refusal_is_said_in_words_and_the_message_kept(page: Page) -> None:
    set_fields(page, temperature="-1")
    say(page, "fox")
    wait_for_answer(page)
    assert "temperature=-1" in page.evaluate(f"{TALKING}.querySelector('.error').textContent")
    assert page.evaluate("document.getElementById('words').value") == "fox"


@needs_chromium
@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_the_page_fits_the_screen_and_everything_has_a_name(
    page: Page, chat_served: Served, size: tuple[int, int]
) -> None:
    page.open(f"{chat_served.url}/?{size[0]}", size=size)
    page.wait("document.querySelectorAll('.model').length > 2")
    width, height = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    assert (width, height) == size
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    nameless = [
        node["role"]["value"]
        for node in nodes
        if not node["ignored"]
        and node["role"]["value"] in ("button", "textbox", "radio", "spinbutton", "radiogroup", "log")
        and not node.get("name", {}).get("value")
    ]
    assert nameless == []
