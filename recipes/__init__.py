"""The recipes that come with gristmill: `--recipe fineweb` names `fineweb.toml` in this folder."""
