"""Ask a served model through OpenAI's own client, the answer streamed. Knows nothing of hanbit.

python -m hanbit.demo.ask_openai http://127.0.0.1:8000/v1 smollm2 "What is the capital of France?"
"""

import sys
from collections.abc import Iterator

MAX_TOKENS = 48


def ask(base_url: str, model: str, prompt: str) -> Iterator[str]:
    """Pieces of the answer as they come, the likeliest token at each step."""
    from openai import OpenAI

    client = OpenAI(base_url=base_url, api_key="none")
    chunks = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": prompt}],
        max_tokens=MAX_TOKENS,
        temperature=0,
        stream=True,
    )
    for chunk in chunks:
        if chunk.choices:
            yield chunk.choices[0].delta.content or ""


if __name__ == "__main__":
    for piece in ask(sys.argv[1], sys.argv[2], sys.argv[3]):
        print(piece, end="", flush=True)
    print()
