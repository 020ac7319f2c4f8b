"""In: a model, its tokenizer, prompts or messages. Out: text, streamed as it is generated.

From the logits up: `sampling` draws an id, `streaming` turns ids into text, `generate` runs the
loop, `search` answers tool calls, `chat` holds a conversation.
"""
