"""A whole node for programs that do not run trio: called from plain code, or from asyncio. It decides nothing."""
