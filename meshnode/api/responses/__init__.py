"""POST /v1/responses: OpenAI's second way to ask, over the same walk. Nothing is stored."""
