"""Turns that continue each other get what one long request with the joined tokens gets; sessions end and give way."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing

from hanbit.common.errors import DeadlinePassed, EngineBusy, GenerationError
from hanbit.engine.llm import LLM
from hanbit.engine.output import Output, Piece
from hanbit.engine.sampling_params import SamplingParams
from hanbit.engine.sequence import Sequence
from hanbit.engine.service import Answer, Service, Turn
from hanbit.engine.sessions import Session, Sessions
from hanbit.engine.speculation import Speculation
from tests.engine.test_adapters import write_adapter
from tests.engine.test_llm import prompts_of

TURNS = prompts_of(7, 3, 1, 9)
GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
DRAWN = SamplingParams(seed=5, temperature=1.2, max_tokens=7, ignore_eos=True, repetition_penalty=1.2, logprobs=1)


@pytest.fixture(scope="module")
def plain(folder: Path) -> LLM:
    return LLM(folder, device="cpu", enable_prefix_caching=False)


def alone(plain: LLM, params: SamplingParams, turns: list[list[int]]) -> list[Output]:
    """Each turn as one request with all tokens so far."""
    found: list[Output] = []
    tokens: list[int] = []
    for turn in turns:
        tokens += turn
        found += plain.generate([tokens], params)
        tokens += found[-1].token_ids
    return found


def run_with(service: Service, work: Callable[[], Awaitable[None]]) -> None:
    """In half a minute at most; then the service is closed."""

    async def limited() -> None:
        async with asyncio.timeout(30):
            await work()

    try:
        asyncio.run(limited())
    finally:
        service.close()


def same(found: Output, wanted: Output) -> bool:
    return (found.text, found.token_ids, found.prompt_token_ids, found.finish_reason) == (
        wanted.text,
        wanted.token_ids,
        wanted.prompt_token_ids,
        wanted.finish_reason,
    )


@pytest.mark.parametrize("speculation", ["none", "prompt_lookup"])
@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("params", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_turns_get_what_one_long_request_gets(
    params: SamplingParams, shares: bool, speculation: str, folder: Path, plain: LLM
) -> None:
    llm = LLM(
        folder, device="cpu", block_size=4, enable_prefix_caching=shares,
        speculation=Speculation(speculation, prompt_lookup_min=1),
    )  # fmt: skip
    wanted = alone(plain, params, TURNS)
    with llm.session() as talk:
        for number, (turn, one) in enumerate(zip(TURNS, wanted, strict=True)):
            assert same(talk.generate(turn, params), one)
            assert talk.tokens == (*one.prompt_token_ids, *one.token_ids)
            before = sum(len(other.prompt_token_ids) for other in wanted[: number + 1])
            counts = llm.cache_counts
            assert counts.read_tokens == before
            assert counts.blocks_used == counts.blocks_held == -(-(len(talk.tokens) - 1) // 4)
        # every turn but the first has read its own tokens and the last of the answer before, and nothing else
        new = len(TURNS[0]) + sum(1 + len(turn) for turn in TURNS[1:])
        assert counts.read_tokens - counts.cached_tokens == new
    assert llm.cache_counts.blocks_used == 0


def test_a_small_model_guesses_for_a_sessions_turns(folder: Path, plain: LLM) -> None:
    wanted = alone(plain, GREEDY, TURNS)
    llm = LLM(folder, device="cpu", speculation=Speculation("draft", draft_model=folder))
    with llm.session() as talk:
        assert all(same(talk.generate(turn, GREEDY), one) for turn, one in zip(TURNS, wanted, strict=True))
    counts = llm.speculation_counts
    assert counts.accepted_tokens == counts.draft_tokens > 0
    assert llm.cache_counts.blocks_used == 0


def test_several_sessions_and_others_beside_get_each_its_own_on_few_blocks(folder: Path, plain: LLM) -> None:
    llm = LLM(folder, device="cpu", block_size=4, num_blocks=16, max_sequences=3)
    turns = [[[number, *turn] for turn in TURNS[:3]] for number in range(5)]
    wanted = [alone(plain, GREEDY, one) for one in turns]
    talks = [llm.session() for _ in turns]
    for place in range(3):
        for talk, one, outputs in zip(talks, turns, wanted, strict=True):
            assert same(talk.generate(one[place], GREEDY), outputs[place])
            assert llm.cache_counts.blocks_used == llm.cache_counts.blocks_held <= 16
        llm.generate(prompts_of(20, 30), GREEDY)
    assert llm.cache_counts.preempted == 0  # who is held gives way before anybody who is answered
    for talk in talks:
        talk.close()
        talk.close()
    assert llm.cache_counts.blocks_used == 0


def test_texts_and_streams_and_an_empty_turn_continue_too(llm: LLM) -> None:
    with llm.session() as talk:
        pieces = list(talk.stream("The quick", GREEDY))
        first = tuple(id for piece in pieces for id in piece.token_ids)
        second = talk.generate(" brown 안녕", GREEDY)
        joined = [*llm.tokenizer.encode("The quick"), *first]
        joined += llm.tokenizer.encode(" brown 안녕", add_special_tokens=False)
        assert second.prompt_token_ids == tuple(joined)
        third = talk.generate([], GREEDY)
        assert third.prompt_token_ids == (*joined, *second.token_ids)
        assert third.token_ids == llm.generate([[*joined, *second.token_ids]], GREEDY)[0].token_ids


def test_a_turn_that_is_left_or_refused_leaves_the_session_as_it_was(folder: Path, plain: LLM) -> None:
    llm = LLM(folder, device="cpu", block_size=4)
    wanted = alone(plain, GREEDY, TURNS[:2])
    with llm.session() as talk:
        talk.generate(TURNS[0], GREEDY)
        before = talk.tokens
        stream = talk.stream([1, 2, 3], GREEDY)
        next(stream)
        with pytest.raises(GenerationError, match="is being answered: one turn at a time"):
            talk.generate([4], GREEDY)
        stream.close()  # type: ignore[attr-defined]
        for wrong, message in (
            ([1] * 60, r"session \d+ with this turn has 73 tokens and the model's context holds 64"),
            ([VERY_LARGE], "outside the model's vocabulary"),
        ):
            with pytest.raises(GenerationError, match=message):
                talk.generate(wrong, GREEDY)
        for several in (SamplingParams(n=2), SamplingParams(num_beams=2)):
            with pytest.raises(GenerationError, match=r"num_beams=2: a session|n=2, best_of=None: one sequence"):
                talk.generate([1], several)
        assert talk.tokens == before
        assert same(talk.generate(TURNS[1], GREEDY), wanted[1])
        never_begun = talk.stream([1], GREEDY)
        del never_begun
        gc.collect()
        talk.generate([1], GREEDY)
    assert llm.cache_counts.blocks_used == 0


VERY_LARGE = 10**6


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_sessions_are_bounded_in_number_and_end_when_nobody_comes(llm: LLM) -> None:
    clock, over = Clock(), []
    sessions = Sessions(2, 30, over.append, clock)

    def turn(name: str, is_first: bool = False, is_last: bool = False) -> None:
        sequence = llm.turn(sessions, name, [1, 2], GREEDY, is_first=is_first, is_last=is_last)
        assert sequence.session is not None
        sessions.begun(sequence.session)
        sequence.session.finish(sequence)

    turn("a", is_first=True)
    clock.now = 20
    turn("b", is_first=True)
    with pytest.raises(EngineBusy, match=r"2 sessions are open, max_sessions=2\. End one"):
        turn("c", is_first=True)
    with pytest.raises(GenerationError, match="session 'c' is not open: it was never begun"):
        turn("c")
    clock.now = 29
    turn("a")
    clock.now = 51  # b was last asked at 20, a at 29
    assert (len(sessions), len(over)) == (1, 1)
    with pytest.raises(GenerationError, match="session 'b' is not open"):
        turn("b")
    turn("c", is_first=True, is_last=True)
    assert len(sessions) == 1
    turn("a", is_first=True)  # begun anew: the one of that name is over
    assert len(over) == 3  # c, too
    sessions.end("a")
    assert (len(sessions), len(over)) == (0, 4)
    with pytest.raises(GenerationError, match="nothing is there to be ended"):
        sessions.end("a")


def test_a_refused_first_turn_leaves_the_former_session_of_its_name_open(llm: LLM) -> None:
    over: list[Sequence] = []
    sessions = Sessions(1, 30, over.append)

    def turn(tokens: list[int], is_first: bool = False, is_last: bool = False) -> tuple[Session, Sequence]:
        sequence = llm.turn(sessions, "a", tokens, GREEDY, is_first=is_first, is_last=is_last)
        assert sequence.session is not None
        return sequence.session, sequence

    former, first = turn([1, 2], is_first=True)
    sessions.begun(former)
    former.finish(first)
    for is_last in (False, True):
        with pytest.raises(GenerationError, match="outside the model's vocabulary"):
            turn([VERY_LARGE], is_first=True, is_last=is_last)
    with pytest.raises(GenerationError, match="outside the model's vocabulary"):
        turn([VERY_LARGE], is_last=True)  # a last turn that is refused may be asked for again
    refused, _ = turn([3], is_first=True)  # by the engine, which is full
    sessions.unbegun(refused, is_new=True)
    session, second = turn([4])
    assert (session, second.tokens, over, len(sessions)) == (former, [1, 2, 4], [], 1)
    former.drop(second)
    new, _ = turn([5], is_first=True)
    with pytest.raises(GenerationError, match="one turn at a time"):
        turn([6], is_first=True)
    sessions.end("a")  # by another thread, before the engine says no: both are over
    sessions.unbegun(new, is_new=True)
    assert (former.is_ended, new.is_ended, len(sessions)) == (True, True, 0)


def test_a_turn_after_a_first_one_that_was_left_begins_the_text(folder: Path) -> None:
    llm = LLM(folder, device="cpu")
    core = llm.tokenizer.core
    core.post_processor = TemplateProcessing("<|endoftext|> $A", None, [("<|endoftext|>", 0)])
    assert llm.tokenizer.begin_ids == [0]
    whole = [0, *llm.tokenizer.encode("The quick", add_special_tokens=False)]
    assert llm.tokenizer.encode("The quick") == whole

    def left(name: str) -> None:
        sequence = llm.turn(llm.sessions, name, "never said", GREEDY, is_first=True)
        stream = llm.answer_turn(sequence)
        next(stream)
        stream.close()  # type: ignore[attr-defined]

    # As a text, as what a frontend makes of a later turn's text, and as what it makes of a first one's.
    for turn in ("The quick", whole[1:], whole):
        left("a")
        second = llm.turn(llm.sessions, "a", turn, GREEDY)
        assert second.tokens == whole
        for _ in llm.answer_turn(second):
            pass
        third = llm.turn(llm.sessions, "a", [5], GREEDY)
        assert third.tokens == [*second.tokens, 5]
        llm.answer_turn(third)
        third.session.drop(third)  # type: ignore[union-attr]
    assert llm.turn(llm.sessions, "b", [5], GREEDY, is_first=True).tokens == [5]  # tokens stay as they are given

    with llm.session() as talk:
        stream = talk.stream("never said", GREEDY)
        next(stream)
        stream.close()  # type: ignore[attr-defined]
        assert talk.generate([5], GREEDY).prompt_token_ids == (5,)
        assert talk.generate("The quick", GREEDY).prompt_token_ids[-len(whole) + 1 :] == tuple(whole[1:])


def test_a_last_turn_that_is_left_or_fails_ends_its_session_and_another_does_not(folder: Path, plain: LLM) -> None:
    wanted = alone(plain, GREEDY, TURNS[:2])
    service = Service(LLM(folder, device="cpu", block_size=4), max_sequences=2)

    async def whole(answer: Answer) -> tuple[int, ...]:
        return tuple([id async for piece in answer for id in piece.token_ids])

    async def leave(name: str, is_last: bool) -> None:
        answer = service.stream(TURNS[1], GREEDY, turn=Turn(name, is_last=is_last))
        await anext(answer)
        await answer.aclose()
        while service.sessions._open[name].is_busy:
            await asyncio.sleep(0.001)

    async def run_late(name: str, is_last: bool) -> None:
        answer = service.stream(TURNS[1], GREEDY, turn=Turn(name, is_last=is_last), timeout_seconds=0)
        with pytest.raises(DeadlinePassed):
            await whole(answer)

    async def work() -> None:
        for fail in (leave, run_late):
            await whole(service.stream(TURNS[0], GREEDY, turn=Turn("x", is_first=True)))
            await fail("x", False)
            before = service.sessions._open["x"]
            with pytest.raises(GenerationError, match="outside the model's vocabulary"):
                service.stream([VERY_LARGE], GREEDY, turn=Turn("x", is_first=True))
            assert await whole(service.stream(TURNS[1], GREEDY, turn=Turn("x"))) == wanted[1].token_ids
            assert service.sessions._open["x"] is before
            await fail("x", True)
            assert len(service.sessions) == 0
            with pytest.raises(GenerationError, match="session 'x' is not open"):
                service.stream([1], GREEDY, turn=Turn("x"))
            await whole(service.stream([1], GREEDY))
            assert service.cache_counts.blocks_used == 0

    run_with(service, work)


def test_a_session_keeps_to_its_adapter(folder: Path, tmp_path: Path) -> None:
    llm = LLM(folder, device="cpu")
    write_adapter(folder, tmp_path, 1, ["q_proj", "up_proj"])
    llm.add_adapter("polite", tmp_path)
    with llm.session(adapter="polite") as talk:
        first = talk.generate(TURNS[0], GREEDY)
        second = talk.generate(TURNS[1], GREEDY)
        joined = [*TURNS[0], *first.token_ids, *TURNS[1]]
        assert second.token_ids == llm.generate([joined], GREEDY, adapter="polite")[0].token_ids
        sessions = llm.sessions
        with pytest.raises(GenerationError, match="begun with adapter='polite', and this turn asks for None"):
            llm.turn(sessions, next(iter(sessions._open)), [1], GREEDY)


@pytest.mark.parametrize("kv_cache_dtype", ["auto", "int8"])
def test_an_adapter_that_is_loaded_anew_is_what_the_next_turn_is_computed_with(
    folder: Path, tmp_path: Path, kv_cache_dtype: str
) -> None:
    llm = LLM(folder, device="cpu", block_size=4, kv_cache_dtype=kv_cache_dtype)
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        write_adapter(folder, tmp_path / str(number), number, ["q_proj", "up_proj"])
    llm.add_adapter("polite", tmp_path / "1")
    with llm.session(adapter="polite") as talk:
        first = talk.generate(TURNS[0], GREEDY)
        llm.add_adapter("polite", tmp_path / "2")
        joined = [*TURNS[0], *first.token_ids, *TURNS[1]]
        second = talk.generate(TURNS[1], GREEDY)
    assert second.token_ids == llm.generate([joined], GREEDY, adapter="polite")[0].token_ids
    assert llm.cache_counts.blocks_held == 0


def test_a_talk_whose_time_is_up_is_left_in_silence(folder: Path) -> None:
    llm = LLM(folder, device="cpu", session_timeout_seconds=0.01)
    with llm.session() as talk:
        talk.generate(TURNS[0], GREEDY)
        time.sleep(0.02)
    assert llm.cache_counts.blocks_held == 0
    talk.close()


def test_a_services_sessions_continue_end_and_refuse(folder: Path, plain: LLM) -> None:
    wanted = alone(plain, GREEDY, TURNS)
    service = Service(LLM(folder, device="cpu", block_size=4), max_sequences=2, max_waiting=0)

    async def pieces(answer: Answer) -> list[Piece]:
        return [piece async for piece in answer]

    async def work() -> None:
        for number, (turn, output) in enumerate(zip(TURNS, wanted, strict=True)):
            place = Turn(7, is_first=number == 0, is_last=number == len(TURNS) - 1)
            answer = service.stream(turn, GREEDY, turn=place)
            if number == 1:
                with pytest.raises(GenerationError, match="one turn at a time"):
                    service.stream(turn, GREEDY, turn=place)
            found = await pieces(answer)
            assert tuple(id for piece in found for id in piece.token_ids) == output.token_ids
            assert (service.cache_counts.blocks_held > 0) == (not place.is_last)
        with pytest.raises(GenerationError, match="session 7 is not open"):
            service.stream([1], GREEDY, turn=Turn(7))
        await pieces(service.stream([1], GREEDY, turn=Turn("x", is_first=True)))
        left = service.stream([1], GREEDY, turn=Turn("x"))
        await anext(left)
        await left.aclose()
        running = [service.stream([1], SamplingParams(max_tokens=50, ignore_eos=True)) for _ in range(2)]
        while service.sessions._open["x"].is_busy:  # until the one that left is gone
            await asyncio.sleep(0.001)
        with pytest.raises(EngineBusy, match="wait for the engine already"):
            service.stream([1], GREEDY, turn=Turn("x"))
        for answer in running:
            await answer.aclose()
        while service.running:
            await asyncio.sleep(0.001)
        await pieces(service.stream([1], GREEDY, turn=Turn("x")))
        service.sessions.end("x")
        await pieces(service.stream([1], GREEDY))
        assert service.cache_counts.blocks_used == 0

    run_with(service, work)
