"""The `meshnode` command: says at once where it cannot run, and otherwise hands over to the verbs."""

import sys

WSL = (
    "error: meshnode runs on Linux and macOS.\n"
    "hint: On Windows use it inside WSL2: run `wsl --install`, then install meshnode in there."
)


def main(platform: str = sys.platform) -> None:
    """Run the command line and exit with a code from `meshnode.cli.exits`."""
    if platform == "win32":
        sys.exit(WSL)
    # Only here, because parts of a node need Unix to be imported at all.
    from meshnode.cli.program import program

    program(prog_name="meshnode")


if __name__ == "__main__":
    main()
