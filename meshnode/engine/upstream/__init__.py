"""Another server that speaks OpenAI's API, as an engine. It knows neither nodes nor the mesh."""
