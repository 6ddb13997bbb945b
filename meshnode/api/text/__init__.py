"""POST /v1/completions: how a bare text goes on, in the words of OpenAI's older protocol."""
