"""The grammar of a conversation's tokens as a chat template in Jinja, which transformers renders.

For conversations in OpenAI's form it gives the ids and the mask of the shards of conversations,
with these limits: transformers tokenizes what was rendered, so a special token's literal in a text
becomes that token; texts of several parts are encoded as one; arguments that are a string are taken
as they are. What is learned stands in a `generation` block, which `return_assistant_tokens_mask`
reads. Format: https://huggingface.co/docs/transformers/chat_templating.
"""

from __future__ import annotations

CHAT_TEMPLATE = """\
{%- macro said(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content or [] -%}
            {%- if part is string -%}
                {{- part -}}
            {%- elif part.type == 'text' -%}
                {{- part.text -}}
            {%- else -%}
                {{- raise_exception('content of type ' ~ part.type ~ ': only text') -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- macro called(call) -%}
    {%- set function = call.function or call -%}
    {%- set arguments = function.arguments -%}
    {{- '<|tool_call|>{"name": ' ~ (function.name | tojson) ~ ', "arguments": ' -}}
    {%- if arguments is string -%}
        {{- arguments if arguments | trim else '{}' -}}
    {%- else -%}
        {{- ({} if arguments is none or arguments is undefined else arguments) | tojson -}}
    {%- endif -%}
    {{- '}<|tool_call_end|>' -}}
{%- endmacro -%}
{%- macro reply(message) -%}
    {{- said(message.content) -}}
    {%- for call in message.tool_calls or [] -%}
        {{- called(call) -}}
    {%- endfor -%}
    {%- if message.function_call -%}
        {{- called(message.function_call) -}}
    {%- endif -%}
    {{- '<|end|>' -}}
{%- endmacro -%}
{{- bos_token -}}
{%- if tools -%}
    {{- '<|system|>' ~ (tools | tojson) ~ '<|end|>' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role in ['system', 'developer'] -%}
        {%- if said(message.content) | trim -%}
            {{- '<|system|>' ~ said(message.content) ~ '<|end|>' -}}
        {%- endif -%}
    {%- elif message.role == 'user' -%}
        {{- '<|user|>' ~ said(message.content) ~ '<|end|>' -}}
    {%- elif message.role == 'assistant' -%}
        {{- '<|assistant|>' -}}
        {%- if message.weight is defined and message.weight == 0 -%}
            {{- reply(message) -}}
        {%- else -%}
            {%- generation -%}
                {{- reply(message) -}}
            {%- endgeneration -%}
        {%- endif -%}
    {%- elif message.role in ['tool', 'function'] -%}
        {{- '<|tool_result|>' ~ said(message.content) ~ '<|tool_result_end|>' -}}
    {%- else -%}
        {{- raise_exception('role ' ~ message.role ~ ': system, user, assistant, tool') -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|assistant|>' -}}
{%- endif -%}
"""
