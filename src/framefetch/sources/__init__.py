"""Where bytes come from: the only room that knows aiohttp."""
