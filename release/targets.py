"""The platforms that wheels are built for, and what each demands of the library inside."""

from dataclasses import dataclass

UNITS = {
    "x86_64": ("scalar", "avx2", "avxvnni", "avx512vnni", "avx512bf16"),
    "aarch64": ("scalar", "dotprod", "i8mm"),
}


@dataclass(frozen=True, slots=True)
class Target:
    """A platform.

    Attributes:
        platform: Of the wheel's tag.
        zig: Target of `zig cc`.
        machine: Processor, `x86_64` or `aarch64`.
        system: As in `sys.platform`.
        libraries: That the library may need; each is part of every such system.
        glibc: Newest version of glibc that it may need; None where there is no glibc.
        link_flags: For linking.
    """

    platform: str
    zig: str
    machine: str
    system: str
    libraries: frozenset[str]
    glibc: tuple[int, ...] | None = None
    link_flags: tuple[str, ...] = ()


# Of glibc 2.17; newer ones have all of it in libc and keep the other two for programs such as this one.
_GLIBC = frozenset({"libc.so.6", "libm.so.6", "libpthread.so.0", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"})
_MUSL = frozenset({"libc.so"})
_MACOS = frozenset({"/usr/lib/libSystem.B.dylib"})
_WINDOWS = frozenset({"kernel32.dll", "ntdll.dll", "msvcrt.dll"})
_INSTALL_NAME = ("-Wl,-install_name,@rpath/_kernels.dylib",)


def _linux(machine: str) -> tuple[Target, Target]:
    manylinux = Target(
        platform=f"manylinux_2_17_{machine}.manylinux2014_{machine}",
        zig=f"{machine}-linux-gnu.2.17",
        machine=machine,
        system="linux",
        libraries=_GLIBC,
        glibc=(2, 17),
    )
    musllinux = Target(
        platform=f"musllinux_1_2_{machine}",
        zig=f"{machine}-linux-musl",
        machine=machine,
        system="linux",
        libraries=_MUSL,
    )
    return manylinux, musllinux


def _macos(machine: str, name: str) -> Target:
    return Target(
        platform=f"macosx_11_0_{name}",
        zig=f"{machine}-macos.11.0",
        machine=machine,
        system="darwin",
        libraries=_MACOS,
        link_flags=_INSTALL_NAME,
    )


TARGETS = (
    *_linux("x86_64"),
    *_linux("aarch64"),
    _macos("aarch64", "arm64"),
    _macos("x86_64", "x86_64"),
    Target("win_amd64", "x86_64-windows-gnu", "x86_64", "win32", _WINDOWS),
)
