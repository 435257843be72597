# weights/ is installed as mobilesam.weights.
from pathlib import Path

def default_path() -> Path: ...
