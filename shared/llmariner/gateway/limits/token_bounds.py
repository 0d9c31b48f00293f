"""The most tokens that a request can use, for which a budget has to suffice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmariner.gateway.admission.chat_template import max_prompt_tokens

if TYPE_CHECKING:
    from llmariner.gateway.control_plane.port import ModelState
    from llmariner.gateway.requests.fields import Route
    from llmariner.gateway.requests.parser import ModelRequest
    from llmariner.gateway.state import Gateway

__all__ = ["max_request_tokens"]


async def max_request_tokens(
    gateway: Gateway, route: Route, request: ModelRequest, body: bytes, model_id: str, state: ModelState
) -> tuple[int, int]:
    """The most tokens of all prompts, and of all completions together. It may ask the engine for its limits, once.

    `body`: what the engine receives. `model_id`: in the registry.
    """
    prompt_tokens = await _max_prompt_tokens(gateway, route, request, body, model_id, state)
    completion_tokens = request.max_completion_tokens
    if completion_tokens is None or prompt_tokens is None or request.tool_count:
        context = await gateway.context_length(model_id, state)
        prompt_limit = request.prompt_count * context
        prompt_tokens = prompt_limit if prompt_tokens is None else min(prompt_tokens, prompt_limit)
        completion_tokens = request.choice_count * context if completion_tokens is None else completion_tokens
    return prompt_tokens, completion_tokens


async def _max_prompt_tokens(
    gateway: Gateway, route: Route, request: ModelRequest, body: bytes, model_id: str, state: ModelState
) -> int | None:
    """None: only the model's context length bounds the prompt."""
    if request.prompt_unbounded:
        return None
    if "messages" not in route.required:
        return request.max_prompt_tokens  # no chat template applies
    template = gateway.cached_template_tokens(model_id) or await gateway.template_tokens(model_id, request.model, state)
    return max_prompt_tokens(template, body, request.tool_count)
