"""This machine -> out/device.json. Runs at every `dvc repro`, so that no other machine's figures pass for ours."""

from rsd.machine.files import write_json
from rsd.machine.fingerprint import fingerprint
from stages import OUT, run


def main() -> None:
    write_json(OUT.device_file, fingerprint())


if __name__ == "__main__":
    run(main)
