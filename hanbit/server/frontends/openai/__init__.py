"""OpenAI's chat, completions and embeddings over the engines of the data plane, for its clients and for the page.

request ─ parse ─▶ a class of `requests` ─ answers ─▶ engine ─ respond ─▶ JSON, or events
"""

from hanbit.server.frontends.openai.routes import routes

__all__ = ["routes"]
