"""Request and response bodies: LLMariner's and OpenAI's objects, lists and cursors, field masks, timestamps."""
