"""The first file system of a guest: loads what the disks need, mounts them, and hands over to the agent.

Kept in the cache by its contents; see `workbench.lab.cpio` for the format.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from workbench.lab import cpio
from workbench.lab.cache import Cache
from workbench.lab.contents import SITE
from workbench.lab.image import PROJECT
from workbench.lab.kernel import Kernel, load_order

__all__ = ("NEEDED", "initramfs")

NEEDED = ("virtio_pci", "virtio_console", "nfit", "nd_pmem", "virtio_blk", "nvme", "ext4")
"""Modules that are loaded where they are not built in."""

_INIT = f"""#!/bin/busybox sh
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in $(cat /modules/order); do
    insmod /modules/$module.ko || echo "lab: module $module was refused"
done
for word in $(cat /proc/cmdline); do
    case $word in
    lab.root=*) root=${{word#lab.root=}} ;;
    lab.project=*) project=${{word#lab.project=}} ;;
    esac
done
tries=0
while [ ! -b $root ] || [ ! -b $project ]; do
    tries=$((tries + 1))
    [ $tries -lt 500 ] || {{ echo "lab: the guest sees no disk $root $project"; poweroff -f; }}
    sleep 0.01
done
mount -t ext4 -o noatime $root /root
if [ ! -d /root/{PROJECT} ]; then  # memory modules are found in any order
    umount /root
    mount -t ext4 -o noatime $project /root
    project=$root
fi
mount -t ext4 -o noatime $project /root/{PROJECT} || {{
    echo "lab: the guest cannot mount its disks"
    poweroff -f
}}
for place in dev proc sys; do mount -o move /$place /root/$place; done
cd /root
mount -t tmpfs -o mode=1777 tmp tmp
mount -t tmpfs run run
mount -t tmpfs out out
mkdir -p dev/shm dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t devpts -o ptmxmode=666 pts dev/pts
mount -t tracefs trace sys/kernel/tracing
mount -t debugfs debug sys/kernel/debug
mount -t bpf bpf sys/fs/bpf
mount -t cgroup2 cgroup sys/fs/cgroup
ip link set lo up
hostname lab
ln -sf /proc/self/fd dev/fd
echo 0 > proc/sys/kernel/printk_devkmsg 2>/dev/null
# Every ten seconds khugepaged copies eight huge pages together, 40 to 70 ms here, before any task of SCHED_EXT: never.
echo 2147483647 > sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs 2>/dev/null
export PATH=/usr/local/bin:/usr/bin:/usr/sbin HOME=/root LANG=C.UTF-8 TERM=linux
export PYTHONPATH=/{PROJECT}:/{SITE} OUT=/out
exec /bin/switch_root /root /usr/bin/python3 -S -E -c "import sys; sys.path.insert(0, '/{PROJECT}')
from workbench.lab.agent import main; main()"
"""

_APPLETS = (
    "sh", "mount", "umount", "insmod", "cat", "echo", "sleep", "poweroff", "mkdir", "ln", "ip", "hostname",
    "switch_root",
)  # fmt: skip


def initramfs(cache: Cache, kernel: Kernel, busybox: Path, modules: tuple[str, ...] = ()) -> Path:
    """The archive for `kernel` that loads `modules` as well.

    Raises
    ------
    MissingCapability
        The kernel has no such module.
    """
    order = load_order(kernel, NEEDED, modules)
    entries = {
        "init": cpio.file(_INIT.encode(), 0o755),
        "bin/busybox": cpio.file(busybox.read_bytes(), 0o755),
        "modules/order": cpio.file(" ".join(name for name, _ in order).encode()),
        "dev/console": cpio.device(5, 1),
        "dev/null": cpio.device(1, 3, 0o666),
    }
    entries |= {f"bin/{name}": cpio.link("busybox") for name in _APPLETS}
    entries |= {name: cpio.folder() for name in ("proc", "sys", "root")}
    entries |= {f"modules/{name}.ko": cpio.file(data) for name, data in order}
    data = cpio.archive(entries)
    path = cache.folder("images") / f"{hashlib.sha256(data).hexdigest()[:16]}.cpio"
    if not path.exists():
        part = path.with_suffix(".part")
        part.write_bytes(data)
        part.replace(path)
        cache.keep_newest("images", "*.cpio", 6)
    cache.touch(path)
    return path
