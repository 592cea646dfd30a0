#!/bin/sh
# Boots systemd as process 1 of namespaces of its own: the machine's own tree below, or that of another system at
# $TARGET_NOTIFYD_ROOT, and everything written in memory.
#
#   boot.sh FOLDER NAME      FOLDER: an empty one, for mounts that nobody outside sees; NAME: of the control group, with the
#                           id of the process that it is booted for at the end
#
# Nothing of the machine changes but for one control group, NAME: /proc/sys cannot be written from inside, the kernel's log is
# out of reach, and the network is a loopback of its own. It ends when its process 1 does.
set -eu
folder=$1 name=$2

case ${3:-outside} in
outside)
    # In a mount namespace of its own, which is private.
    mkdir "$folder/cgroup" "$folder/root"
    mount -t cgroup2 none "$folder/cgroup"
    # What an earlier boot left that was cut off.
    for old in "$folder/cgroup/${name%-*}"-*; do
        [ ! -d "$old" ] || [ -d "/proc/${old##*-}" ] || find "$old" -depth -type d -exec rmdir {} \; || true
    done
    mkdir "$folder/cgroup/$name"
    echo $$ >"$folder/cgroup/$name/cgroup.procs"
    exec unshare --mount --pid --uts --ipc --net --cgroup --fork --kill-child "$0" "$folder" "$name" inside
    ;;
inside)
    mount -t tmpfs -o mode=755 tmpfs "$folder/root"
    cd "$folder/root"
    mkdir upper work new
    mount -t overlay -o "lowerdir=${TARGET_NOTIFYD_ROOT:-/},upperdir=upper,workdir=work" overlay new
    cd new
    mount -t proc proc proc
    mount --bind proc/sys proc/sys
    mount -o remount,bind,ro proc/sys
    mount -t sysfs -o ro sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    for fresh in dev run tmp var/tmp var/log etc/systemd/system; do
        mode=755
        case $fresh in *tmp) mode=1777 ;; esac
        mount -t tmpfs -o mode=$mode tmpfs $fresh
    done
    mkdir dev/pts dev/shm var/log/journal
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
    mount -t tmpfs -o mode=1777 tmpfs dev/shm
    ln -s pts/ptmx dev/ptmx
    for node in null:3 zero:5 full:7 random:8 urandom:9; do
        mknod -m 666 "dev/${node%:*}" c 1 "${node#*:}"
    done
    # What systemd prints goes to nobody; the journal has it.
    mknod -m 600 dev/console c 1 3
    mknod -m 666 dev/tty c 5 0
    for stream in 0:stdin 1:stdout 2:stderr; do
        ln -s "/proc/self/fd/${stream%:*}" "dev/${stream#*:}"
    done
    ln -s /proc/self/fd dev/fd
    # What is enabled on this machine is hidden by the empty folder above. Of what comes with systemd, that which would look
    # for hardware, disks, terminals and users stays away.
    : >etc/fstab
    for unit in getty.target systemd-logind.service systemd-firstboot.service systemd-remount-fs.service \
        systemd-modules-load.service systemd-journald-audit.socket dev-hugepages.mount dev-mqueue.mount \
        sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
        dbus.service dbus.socket apt-daily.timer apt-daily-upgrade.timer; do
        ln -s /dev/null "etc/systemd/system/$unit"
    done
    # The index of all manual pages would be made anew with each package.
    rm -f var/lib/man-db/auto-update
    # Images of containers have these: packages start no services, and leave out their documentation.
    rm -f usr/sbin/policy-rc.d etc/dpkg/dpkg.cfg.d/*
    echo localhost >etc/hostname
    mkdir .old
    pivot_root . .old
    umount -l /.old
    rmdir /.old
    # Without this the credentials of a service stay out of its sight.
    mount --make-rshared /
    # The clock, modules, and the kernel's log are this machine's.
    exec setpriv --bounding-set -sys_time,-sys_module,-sys_rawio,-syslog --inh-caps -sys_time,-sys_module,-sys_rawio,-syslog \
        env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --unit=multi-user.target </dev/null >/dev/null 2>&1
    ;;
esac
