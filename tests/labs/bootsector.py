"""A tiny bootable disk: one boot sector, assembled here, that speaks on the serial console.

A PC's BIOS loads it to 0x7C00 and jumps there.  It sets COM1 to 115200 8N1, asks the
BIOS for the size of the drive it came from (INT 13h, AH=48h), writes
``<marker> disk sectors=0x<eight hex digits>`` and then halts, or powers the machine
off through the PM1a control port, which SeaBIOS puts at 0x604 on both ``pc`` and
``q35``: at once, or when its power button is pressed.  No operating system, assembler or download is involved.

Encodings: Intel's manual, volume 2, 16-bit operands; INT 13h extensions: the BIOS
Enhanced Disk Drive specification; the 16550's registers: its data sheet.
"""

import argparse
import re
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

SECTOR = 512

End: TypeAlias = Literal["idle", "poweroff", "button"]

_ORIGIN = 0x7C00
_CODE_SPACE = 440  # where the disk signature and the partition table begin
_COM1 = 0x3F8
_MARK = re.compile(r"disk sectors=0x([0-9A-F]{8})")


@dataclass
class _Code:
    """Bytes, labels in them, and references to labels that are filled in at the end."""

    data: bytearray = field(default_factory=bytearray)
    labels: dict[str, int] = field(default_factory=dict)
    references: list[tuple[int, str, str]] = field(default_factory=list)

    def put(self, *parts: str | bytes) -> None:
        """Append bytes; a string is hex."""
        for part in parts:
            self.data += bytes.fromhex(part) if isinstance(part, str) else part

    def label(self, name: str) -> None:
        self.labels[name] = len(self.data)

    def near(self, opcode: str, name: str) -> None:
        """A jump or call that names its target by 8 bits, from the next instruction on."""
        self._refer(opcode, name, "<b")

    def call(self, name: str) -> None:
        self._refer("E8", name, "<h")

    def address(self, opcode: str, name: str) -> None:
        """An instruction whose operand is the 16-bit address of a label."""
        self._refer(opcode, name, "<H")

    def _refer(self, opcode: str, name: str, form: str) -> None:
        self.put(opcode)
        self.references.append((len(self.data), name, form))
        self.put(bytes(struct.calcsize(form)))

    def linked(self) -> bytes:
        for at, name, form in self.references:
            target = self.labels[name]
            value = _ORIGIN + target if form == "<H" else target - (at + struct.calcsize(form))
            struct.pack_into(form, self.data, at, value)
        return bytes(self.data)


def boot_sector(marker: str = "BOOT OK", end: End = "idle") -> bytes:
    """The 512 bytes, with one bootable partition in their table.

    :raises ValueError: if ``marker`` (ASCII) leaves no room for the code.
    """
    code = _Code()
    _start(code)
    _tell_size(code)
    if end == "button":
        _await_button(code)
    if end != "idle":
        _power_off(code)
    code.label("halt")
    code.put("F4")  # hlt
    code.near("EB", "halt")  # jmp halt
    _printing(code)
    _data(code, marker)
    linked = code.linked()
    if len(linked) > _CODE_SPACE:
        raise ValueError(f"the marker is {len(linked) - _CODE_SPACE} bytes too long")
    partition = struct.pack("<B3sB3sII", 0x80, b"\0\2\0", 0x83, b"\xfe\xff\xff", 1, 2047)
    table = struct.pack("<IH", 0x544F4F42, 0) + partition + bytes(48)
    return linked.ljust(_CODE_SPACE, b"\0") + table + b"\x55\xaa"


def _start(code: _Code) -> None:
    """Segments, stack, the number of the boot drive; and the serial port."""
    code.put("FA 31C0 8ED8 8EC0 8ED0 BC007C FC")  # cli; ax, ds, es, ss = 0; sp = 7C00; cld
    code.address("EA", "start")  # jmp 0:start: some BIOSes come here as 07C0:0000
    code.put("0000")
    code.label("start")
    code.put("FB")  # sti
    code.address("8816", "drive")  # mov [drive], dl
    # interrupts off; divisor latch on, 1, 0; 8N1; FIFOs on; DTR and RTS
    for register, value in ((1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3)):
        code.put("BA", struct.pack("<H", _COM1 + register), "B0", bytes([value]), "EE")  # mov dx; mov al; out
    code.address("BE", "marker")  # mov si, marker
    code.call("print")


def _tell_size(code: _Code) -> None:
    """The low 32 bits of the drive's count of sectors, where the BIOS tells them."""
    code.address("8A16", "drive")  # mov dl, [drive]
    code.address("BE", "parameters")
    code.put("B448 CD13")  # mov ah, 48h; int 13h
    code.near("72", "done")  # jc done
    code.address("BE", "sectors is")
    code.call("print")
    code.address("66A1", "sectors")  # mov eax, [sectors]
    code.put("B90800")  # mov cx, 8
    code.label("digit")
    code.put("66C1C004 6650")  # rol eax, 4; push eax
    code.put("240F 3C0A 1C69 2F")  # and al, 0Fh; cmp al, 10; sbb al, 69h; das: a hex digit
    code.call("send")
    code.put("6658")  # pop eax
    code.near("E2", "digit")  # loop digit
    code.label("done")
    code.address("BE", "newline")
    code.call("print")


def _await_button(code: _Code) -> None:
    """ACPI's fixed power button: bit 8 of the PM1a enable and status registers."""
    code.put("BA0206 B80001 EF")  # out 602h, 100h
    code.label("pressed")
    code.put("BA0006 ED F6C401")  # in ax, 600h; test ah, 1
    code.near("75", "off")
    code.put("F4")  # hlt: until the timer ticks
    code.near("EB", "pressed")
    code.label("off")


def _power_off(code: _Code) -> None:
    code.put("BAFD03")  # mov dx, 3FDh: line status
    code.label("drain")
    code.put("EC A840")  # in al, dx; test al, 40h: all was sent
    code.near("74", "drain")
    code.put("BA0406 B80020 EF")  # out 604h, 2000h: SLP_EN


def _printing(code: _Code) -> None:
    """``print``: the text at si up to its zero.  ``send``: the byte in al."""
    code.label("print")
    code.put("AC 84C0")  # lodsb; test al, al
    code.near("74", "return")
    code.call("send")
    code.near("EB", "print")
    code.label("send")
    code.put("50 BAFD03")  # push ax; mov dx, 3FDh
    code.label("wait")
    code.put("EC A820")  # in al, dx; test al, 20h: room for a byte
    code.near("74", "wait")
    code.put("58 BAF803 EE")  # pop ax; mov dx, 3F8h; out dx, al
    code.label("return")
    code.put("C3")


def _data(code: _Code, marker: str) -> None:
    code.label("drive")
    code.put("80")
    code.label("marker")
    code.put(b"\r\n", marker.encode("ascii"), b"\0")
    code.label("sectors is")
    code.put(b" disk sectors=0x\0")
    code.label("newline")
    code.put(b"\r\n\0")
    code.label("parameters")  # the BIOS fills them in: 26 bytes, the count of sectors at 16
    code.put(struct.pack("<HH", 0x1A, 0), bytes(12))
    code.label("sectors")
    code.put(bytes(10))


def write_disk(path: Path, size: int, *, format: str = "raw", marker: str = "BOOT OK", end: End = "idle") -> None:
    """Make a sparse bootable disk of ``size`` bytes; formats other than raw need qemu-img.

    :raises ValueError: if ``size`` is not a whole number of sectors, or none.
    """
    if size < SECTOR or size % SECTOR:
        raise ValueError(f"not a disk's size: {size}")
    sector = boot_sector(marker, end)
    if format == "raw":
        _write_raw(path, sector, size)
        return
    with tempfile.TemporaryDirectory(prefix=".bootsector-", dir=path.parent) as folder:
        raw = Path(folder) / "raw"
        _write_raw(raw, sector, size)
        command = ["qemu-img", "convert", "-f", "raw", "-O", format, str(raw), str(path)]
        subprocess.run(command, check=True, timeout=60)


def _write_raw(path: Path, sector: bytes, size: int) -> None:
    with path.open("wb") as file:
        file.write(sector)
        file.truncate(size)


def sectors_in(console: str) -> int | None:
    """The size in sectors that a booted disk told on its console; None if it told none."""
    found = _MARK.search(console)
    return int(found[1], 16) if found else None


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make a tiny bootable disk.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--size", type=int, default=1 << 20, help="bytes")
    parser.add_argument("--disk-format", default="raw")
    parser.add_argument("--marker", default="BOOT OK")
    parser.add_argument("--end", choices=("idle", "poweroff", "button"), default="idle")
    options = parser.parse_args(argv)
    write_disk(options.path, options.size, format=options.disk_format, marker=options.marker, end=options.end)


if __name__ == "__main__":
    main()
