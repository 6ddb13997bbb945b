"""The HTTP doors, OpenAI's shapes. It knows no peers and no frames."""
