#!/usr/bin/env bash
# What curl can do with a server that speaks OpenAI's API: one line per capability.
#
#     OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=sk-... bash curl.sh
#
# prints `ok NAME`, `failed NAME: what was answered` or `skipped NAME: why`, and ends with 1 when anything failed. More
# variables:
#
#     OPENAI_MODEL, OPENAI_EMBEDDING_MODEL        other models than the platform's own two
#     OPENAI_RESTRICTED_KEY                       a key that may not chat
#     OPENAI_LIMITED_BASE_URL, OPENAI_LIMITED_KEY a server and a key that is allowed one request a minute
set -uo pipefail

model=${OPENAI_MODEL:-smollm2-135m-instruct}
embedding_model=${OPENAI_EMBEDDING_MODEL:-all-minilm-l6-v2}
url=$OPENAI_BASE_URL
key=$OPENAI_API_KEY
answer=""
capital='"messages": [{"role": "user", "content": "What is the capital of France?"}]'
weather='"messages": [{"role": "user", "content": "What is the weather in Paris?"}]'
city='{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": false}'
tools='"tools": [{"type": "function", "function": {"name": "get_weather", "strict": true, "parameters": '$city'}}]'

# get PATH, post PATH FIELDS...: the head and the body of the answer go to $answer.
get() {
  answer=$(curl -sS -i --max-time 300 "$url$1" -H "Authorization: Bearer $key" 2>&1)
}

post() {
  local path=$1 fields=$2
  answer=$(curl -sS -i --max-time "${seconds:-300}" "$url$path" -H "Authorization: Bearer $key" \
    -H "Content-Type: application/json" -d "{$fields}" 2>&1)
}

chat_with() { post /chat/completions "\"model\": \"$model\", \"temperature\": 0, $1"; }

# holds PATTERN...: each occurs in the answer. lacks PATTERN: it does not.
holds() {
  local pattern
  for pattern in "$@"; do
    grep -qE -- "$pattern" <<<"$answer" || { answer="no '$pattern' in: $answer"; return 1; }
  done
}

lacks() { ! grep -qE -- "$1" <<<"$answer" || { answer="'$1' in: $answer"; return 1; }; }

refused() { holds "^HTTP/1.1 $1 " '"error": ?\{' "\"type\": ?\"" "\"code\": ?\"$2\"" '"message": ?"' '"param": ?'; }

models_list() { get /models && holds '^HTTP/1.1 200 ' "\"id\": ?\"$model\"" "\"id\": ?\"$embedding_model\""; }

models_retrieve() { get "/models/$model" && holds '^HTTP/1.1 200 ' "\"id\": ?\"$model\""; }

chat() { chat_with "$capital" && holds '^HTTP/1.1 200 ' Paris '"finish_reason": ?"stop"' '"total_tokens": ?[1-9]'; }

completions() {
  post /completions "\"model\": \"$model\", \"prompt\": \"The capital of France is\", \"temperature\": 0, \"max_tokens\": 1"
  holds '^HTTP/1.1 200 ' '"text": ?"[^"]*Paris'
}

stream() {
  chat_with "$capital, \"stream\": true"
  holds '^HTTP/1.1 200 ' '^content-type: text/event-stream' '^data: \{' '^data: \[DONE\]' '"content":"[^"]*Paris' &&
    lacks '"usage": ?\{'
}

stream_usage() {
  chat_with "$capital, \"stream\": true, \"stream_options\": {\"include_usage\": true}"
  holds '"choices": ?\[\],.*"usage": ?\{.*"total_tokens": ?[1-9]' '^data: \[DONE\]'
}

stream_cancel() {
  local tries
  seconds=2 chat_with "\"messages\": [{\"role\": \"user\", \"content\": \"Count from 1 to 1000, one number a line.\"}], \"max_tokens\": 1500, \"ignore_eos\": true, \"stream\": true"
  holds '^data: \{' 'timed out' || return 1
  for tries in $(seq 30); do
    get "/models/$model"
    lacks '"requests_running": ?[1-9]' && return 0
    sleep 0.5
  done
  return 1
}

tools_required() {
  chat_with "$weather, $tools, \"tool_choice\": \"required\""
  holds '"finish_reason": ?"tool_calls"' '"name": ?"get_weather"' '\\"city\\": ?\\"Paris\\"'
}

tools_named() {
  chat_with "$weather, $tools, \"tool_choice\": {\"type\": \"function\", \"function\": {\"name\": \"get_weather\"}}"
  holds '"name": ?"get_weather"' '\\"city\\": ?\\"Paris\\"'
}

json_schema() {
  local asked='"messages": [{"role": "user", "content": "Which city is the capital of France? Write a JSON object with its name."}]'
  local schema='{"name": "city", "strict": true, "schema": '$city'}'
  chat_with "$asked, \"response_format\": {\"type\": \"json_schema\", \"json_schema\": $schema}"
  holds '^HTTP/1.1 200 ' '\{[^}]*\\"city\\": ?\\"Paris'
}

logprobs() {
  chat_with "$capital, \"max_tokens\": 4, \"logprobs\": true, \"top_logprobs\": 3"
  holds '"top_logprobs": ?\[\{.*\},\{.*\},\{' '"logprob": ?-'
}

embeddings_float() {
  post /embeddings "\"model\": \"$embedding_model\", \"input\": [\"a cat\", \"a kitten\"], \"encoding_format\": \"float\""
  holds '^HTTP/1.1 200 ' '"index": ?0' '"index": ?1' '"embedding": ?\[-?[0-9.e-]+,'
}

embeddings_base64() {
  post /embeddings "\"model\": \"$embedding_model\", \"input\": \"a cat\", \"encoding_format\": \"base64\""
  holds '^HTTP/1.1 200 ' '"embedding": ?"[A-Za-z0-9+/]{1000,}=*"'
}

request_id() { get /models && holds '^x-request-id: [^ ]+' && chat_with "$capital, \"max_tokens\": 1" && holds '^x-request-id: [^ ]+'; }

wrong_key() { local key=sk-wrong; get /models && refused 401 invalid_api_key; }

restricted_key() {
  [ -n "${OPENAI_RESTRICTED_KEY:-}" ] || { answer="OPENAI_RESTRICTED_KEY is not set"; return 3; }
  local key=$OPENAI_RESTRICTED_KEY
  chat_with "$capital" && refused 403 '[a-z_]+'
}

unknown_model() { post /chat/completions "\"model\": \"no-such-model\", $capital" && refused 404 model_not_found; }

unknown_url() { get /no-such-url && refused 404 unknown_url; }

unknown_url_request_id() { get /no-such-url && holds '^x-request-id: [^ ]+'; }

bad_request() { chat_with "$capital, \"n\": 0" && refused 400 invalid_value && holds '"param": ?"n"'; }

bad_json() { chat_with "$capital, oops" && refused 400 invalid_json; }

rate_limit() {
  [ -n "${OPENAI_LIMITED_KEY:-}" ] || { answer="OPENAI_LIMITED_BASE_URL and OPENAI_LIMITED_KEY are not set"; return 3; }
  local url=$OPENAI_LIMITED_BASE_URL key=$OPENAI_LIMITED_KEY
  unknown_model && post /chat/completions "\"model\": \"no-such-model\", $capital" &&
    refused 429 rate_limit_exceeded && holds '^retry-after: [1-9]'
}

CAPABILITIES="
  models_list models_retrieve chat completions stream stream_usage stream_cancel tools_required tools_named json_schema
  logprobs embeddings_float embeddings_base64 request_id wrong_key restricted_key unknown_model unknown_url
  unknown_url_request_id bad_request bad_json rate_limit"

failed=0
for capability in $CAPABILITIES; do
  $capability
  case $? in
    0) echo "ok $capability" ;;
    3) echo "skipped $capability: $answer" ;;
    *) failed=1 && echo "failed $capability: $(tr -s '\r\n' ' ' <<<"$answer" | cut -c1-600)" ;;
  esac
done
exit $failed
