"""Writes the .stderr files anew: `python -m tests.errors.regenerate`. Read the difference before committing."""

from tests.errors.cases import cases, message


def main() -> None:
    for path in cases():
        path.with_suffix(".stderr").write_text(message(path), encoding="utf-8")


if __name__ == "__main__":
    main()
