"""API keys and private keys in a text: strings that open something, told by their issuer's format.

Only formats that nothing else has: a prefix that the issuer chose so that scanners find it, and a
body of known length. Passwords, and keys without a prefix (an AWS secret key is 40 characters of
base64), look like any other string and are not looked for. Linear: every occurrence of a prefix
is matched against a bounded body, or one that starts where no word is going on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Span = tuple[int, int]

# Prefix -> the rest of the key. Sources: the issuers' documentation (AWS "IAM identifiers",
# GitHub "Behind GitHub's new authentication token formats", GitLab "Token prefixes", Slack "Token
# types", Stripe "API keys", Twilio "API keys", RFC 7519 for JSON Web Tokens) and, for lengths that
# an issuer does not state, the rules of gitleaks (config/gitleaks.toml, v8).
_BODIES = {
    # A digit among the 16: "ASIAPACIFIC…" in capitals is a word.
    "AKIA": "(?=[A-Z]{0,15}[2-7])[A-Z2-7]{16}",  # AWS access key
    "ASIA": "(?=[A-Z]{0,15}[2-7])[A-Z2-7]{16}",  # AWS temporary access key
    "ghp_": "[A-Za-z0-9]{36}",  # GitHub: personal, OAuth, user, server, refresh
    "gho_": "[A-Za-z0-9]{36}",
    "ghu_": "[A-Za-z0-9]{36}",
    "ghs_": "[A-Za-z0-9]{36}",
    "ghr_": "[A-Za-z0-9]{36,76}",
    "github_pat_": "[A-Za-z0-9]{22}_[A-Za-z0-9]{59}",
    "glpat-": "[A-Za-z0-9_-]{20,64}",  # GitLab: personal, deploy, runner
    "gldt-": "[A-Za-z0-9_-]{20,64}",
    "glrt-": "[A-Za-z0-9_-]{20,64}",
    "AIza": "[A-Za-z0-9_-]{35}",  # Google API key
    "GOCSPX-": "[A-Za-z0-9_-]{28}",  # Google OAuth client secret
    "xoxb-": "[0-9]{8,14}-[A-Za-z0-9-]{18,200}",  # Slack: bot, user, legacy, app
    "xoxp-": "[0-9]{8,14}-[A-Za-z0-9-]{18,200}",
    "xoxa-": "[0-9]{8,14}-[A-Za-z0-9-]{18,200}",
    "xoxr-": "[0-9]{8,14}-[A-Za-z0-9-]{18,200}",
    "xoxs-": "[0-9]{8,14}-[A-Za-z0-9-]{18,200}",
    "xapp-": "[0-9]-[A-Z0-9]{8,14}-[0-9]{8,16}-[A-Za-z0-9]{32,64}",
    "hooks.slack.com/services/": "T[A-Z0-9]{8,12}/B[A-Z0-9]{8,12}/[A-Za-z0-9]{24}",
    "sk_live_": "[A-Za-z0-9]{24,99}",  # Stripe: secret, restricted
    "rk_live_": "[A-Za-z0-9]{24,99}",
    "sk-ant-": "[a-z]{3,6}[0-9]{2}-[A-Za-z0-9_-]{80,120}",  # Anthropic
    # OpenAI: "T3BlbkFJ" in the middle is base64 of "OpenAI".
    "sk-": "(?:(?:proj|svcacct|admin)-)?[A-Za-z0-9_-]{20,100}?T3BlbkFJ[A-Za-z0-9_-]{20,100}",
    "hf_": "[A-Za-z0-9]{34}",  # Hugging Face
    "npm_": "[A-Za-z0-9]{36}",
    "pypi-AgEIcHlwaS5vcmc": "[A-Za-z0-9_-]{50,500}",
    "SG.": r"[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",  # SendGrid
    "SK": "[0-9a-f]{32}",  # Twilio
    "dop_v1_": "[0-9a-f]{64}",  # DigitalOcean
    "shpat_": "[0-9a-fA-F]{32}",  # Shopify
    "eyJ": r"[A-Za-z0-9_-]{10,}+\.eyJ[A-Za-z0-9_-]{10,}+\.[A-Za-z0-9_-]{10,}+",  # JSON Web Token
}
_KEYS = {p: re.compile(rf"(?<![\w-]){re.escape(p)}{b}(?![\w-])") for p, b in _BODIES.items()}

_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?P<kind>(?:[A-Z0-9]{1,16} ){0,2}PRIVATE KEY(?: BLOCK)?)-----"
    r"(?P<body>(?:(?!-----)[\x20-\x7e\s])++)"
    r"-----END (?P=kind)-----"
)
# Of 32 random bytes or more; what is left out (…) or has been taken out already has less.
_KEY_MATERIAL = re.compile(r"[A-Za-z0-9+/=]{40}")


def find_api_keys(text: str) -> Iterator[Span]:
    """Start and end of every key with a known issuer's prefix, prefix by prefix."""
    for prefix, pattern in _KEYS.items():
        start = text.find(prefix)
        while start >= 0:
            match = pattern.match(text, start)
            if match:
                yield match.span()
            start = text.find(prefix, match.end() if match else start + 1)


def find_private_keys(text: str) -> Iterator[Span]:
    """Start and end of every PEM block (RFC 7468) or OpenPGP block that holds a private key."""
    if "-----BEGIN " in text:
        for match in _PRIVATE_KEY.finditer(text):
            if _KEY_MATERIAL.search(match["body"]):
                yield match.span()
