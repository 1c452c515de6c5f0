"""What `sluice apply FILE` reads: sources, features and plans, declared in TOML."""

from workers.declaration.document import (
    Declaration,
    read_declaration,
    resolve_api_keys,
    resolve_secrets,
)
from workers.declaration.lines import Lines
from workers.declaration.plans import (
    COMBINES,
    DeclaredFeature,
    DeclaredPlan,
    duration_s,
    shown_duration,
)
from workers.declaration.sources import DeclaredSource, resolve_secret
from workers.declaration.tables import (
    DeclarationError,
    KeyPath,
    leaves_of,
    shown_key,
    shown_path,
)

__all__ = [
    "COMBINES",
    "Declaration",
    "DeclarationError",
    "DeclaredFeature",
    "DeclaredPlan",
    "DeclaredSource",
    "KeyPath",
    "Lines",
    "duration_s",
    "leaves_of",
    "read_declaration",
    "resolve_api_keys",
    "resolve_secret",
    "resolve_secrets",
    "shown_duration",
    "shown_key",
    "shown_path",
]
