"""This machine -> out/device.json. Runs at every `dvc repro`, so that no other machine's figures pass for ours."""

from rsd.machine.fingerprint import fingerprint
from rsd.run.records import DeviceRecord
from stages import OUT, run


def main() -> None:
    OUT.write(DeviceRecord.model_validate(fingerprint()))


if __name__ == "__main__":
    run(main)
