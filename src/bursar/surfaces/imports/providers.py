"""Providers and models by the names that other tools give them, as the ledger's. Pure."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

# What LiteLLM, the OpenTelemetry conventions, OpenInference, Vercel's SDK, LangChain and Helicone write, in small letters
# and without what comes after a dot where that names an API (openai.responses).
NAMES = {
    "azure_openai": "azure",
    "azure-openai": "azure",
    "azure.ai.openai": "azure",
    "azure.ai.inference": "azure",
    "azure.openai": "azure",
    "azure_ai": "azure",
    "az.ai.openai": "azure",
    "az.ai.inference": "azure",
    "az.ai": "azure",
    "az": "azure",
    "aws.bedrock": "bedrock",
    "aws_bedrock": "bedrock",
    "amazon_bedrock": "bedrock",
    "amazon-bedrock": "bedrock",
    "bedrock_converse": "bedrock",
    "aws": "bedrock",
    "amazon": "bedrock",
    "vertex_ai": "vertex",
    "vertexai": "vertex",
    "gcp.vertex_ai": "vertex",
    "google.vertex": "vertex",
    "google_vertexai": "vertex",
    "vertex_ai_beta": "vertex",
    "gcp.gemini": "gemini",
    "gcp.gen_ai": "gemini",
    "google": "gemini",
    "google_genai": "gemini",
    "google_generative_ai": "gemini",
    "google-generative-ai": "gemini",
    "google.generative-ai": "gemini",
    "google.generativeai": "gemini",
    "google_ai_studio": "gemini",
    "text-completion-openai": "openai",
    "custom_openai": "openai",
    "mistral_ai": "mistral",
    "mistralai": "mistral",
    "x_ai": "xai",
    "x-ai": "xai",
    "together_ai": "together",
    "together-ai": "together",
    "togetherai": "together",
    "fireworks_ai": "fireworks",
    "fireworks-ai": "fireworks",
    "cohere_chat": "cohere",
    "voyage": "voyageai",
    "claude": "anthropic",
}
# The price book's names where ours differ: what a model's name alone is understood as.
OF_THE_BOOK = {"google": "gemini", "aws": "bedrock", "x-ai": "xai"}
NAMED_MAX = 4096


class Names(Protocol):
    """What is needed of a price book to understand a model's name."""

    def resolve(self, provider: str, model: str) -> object | None: ...


@lru_cache(maxsize=NAMED_MAX)
def provider(said: str) -> str:
    """Our name of a provider, from any tool's; as it stands where nobody here knows it."""
    name = said.strip().lower()
    while name:
        if name in NAMES:
            return NAMES[name]
        if name.partition(".")[0] == name:
            return name
        name = name.rpartition(".")[0]
    return ""


@lru_cache(maxsize=NAMED_MAX)
def model(said: str, at: str) -> str:
    """A model's name without a prefix that only repeats the provider `at`: `openai/gpt-5` at openai."""
    head, slash, rest = said.partition("/")
    return rest if slash and rest and provider(head) == at else said


@lru_cache(maxsize=NAMED_MAX)
def split(said: str) -> tuple[str, str]:
    """(provider, model) of a name with its provider in front, as LiteLLM writes them; no provider where none is."""
    if "/publishers/" in said:  # Vertex's whole path
        return "vertex", said.rpartition("/")[2]
    head, slash, rest = said.partition("/")
    known = provider(head)
    if slash and rest and (head.lower() in NAMES or known in KNOWN):
        return known, rest
    return "", said


KNOWN = frozenset(NAMES.values()) | {"openai", "anthropic", "openrouter", "groq", "deepseek", "perplexity", "ollama", "databricks"}


def guess(book: Names, said: str) -> str:
    """The provider that a model's name alone suggests; empty where it suggests none."""
    found = book.resolve("", said)
    name = getattr(found, "provider", "")
    return OF_THE_BOOK.get(name, name)
