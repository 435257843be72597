"""Shell completion with the script that `mobilesam completion` prints."""

import subprocess
import sys

import pytest

from mobilesam.cli.main import COMMANDS, main

# Calls the completion function like bash: the function reads COMP_WORDS and writes COMPREPLY.
ASK = """
source "$1"; shift
function=$(complete -p mobilesam | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"
"$function" mobilesam "${@: -1}" "${@: -2:1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["mobilesam", ""], set(COMMANDS)),
        (["mobilesam", "segment", "--ba"], {"--background"}),
        (["mobilesam", "segment", "photo"], {"photo.jpg", "photos"}),
        (["mobilesam", "segment", "photo.jpg", "--output", "m"], {"mask.png"}),
        (["mobilesam", "download", "l"], {"lite_medsam"}),
    ],
)
def test_bash_offers_commands_options_and_files(tmp_path, capsys, words, offered):
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "mask.png"):
        (tmp_path / name).touch()
    shown = subprocess.run(
        ["bash", "-c", ASK, "bash", "./script", *words], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert offered <= {name.rstrip("/") for name in shown.stdout.split("\n")}
    assert "--version" not in shown.stdout


@pytest.mark.parametrize("shell", ["fish", "tcsh", "zsh"])
def test_other_shells_have_a_script_with_every_command(capsys, shell):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in [*COMMANDS, "overlay"])


def test_without_shtab_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert capsys.readouterr().err == "mobilesam: error: completion needs shtab: pip install 'mobilesam[completion]'\n"
