"""Request and response bodies: LLMariner's and OpenAI's shapes, lists and cursors, field masks, timestamps."""
