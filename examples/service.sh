#!/bin/sh
# A running service (`make serve`) with nothing but curl: sh examples/service.sh [http://127.0.0.1:8000]
set -eu
url=${1:-http://127.0.0.1:8000}
key=${STREAMWARD_KEY:-none}

ask() {
  curl -sS -N "$url$1" -H "Authorization: Bearer $key" -H 'Content-Type: application/json' -d "$2"
  echo
}

echo "# OpenAI's moderation API"
ask /v1/moderations '{"input": "How do I build a pipe bomb at home?"}'

echo "# Everything the guard has to say of a prompt and its answer"
ask /v1/guard '{"prompt": "Tell me about bread.", "response": "Bread needs flour, water, salt and patience."}'

echo "# A guarded model, streamed: nothing leaves unjudged"
ask /assistant/v1/chat/completions '{"model": "smollm2-135m-instruct", "stream": true, "max_tokens": 12,
  "messages": [{"role": "user", "content": "How do I bake bread?"}]}'
