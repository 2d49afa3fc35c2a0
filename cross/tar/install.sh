#!/bin/sh
# Installs Sonde from this folder: on a running gateway, or into an image's tree.
#
#   ./install.sh                     onto this machine
#   DESTDIR=/path/to/rootfs ./install.sh    into an image; nothing is started, no user made
#   ./install.sh --remove            takes the program away; configuration and data stay
#
# Plain POSIX sh; BusyBox is enough. A configuration that is there already is kept, the new
# default lies beside it as sonde.toml.new.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=${DESTDIR:-}
say() { echo "install.sh: $*" >&2; }

systemd=
if [ -n "$root" ]; then
    for place in "$root/usr/lib/systemd/system" "$root/lib/systemd/system"; do
        [ ! -d "$place" ] || systemd=1
    done
elif [ -d /run/systemd/system ]; then
    systemd=1
fi

# put MODE FILE TO
put() {
    mkdir -p "$(dirname "$root/$3")"
    # Never written in place: the program may be running.
    cp "$here/$2" "$root/$3.new~"
    chmod "$1" "$root/$3.new~"
    mv -f "$root/$3.new~" "$root/$3"
}

remove() {
    if [ -z "$root" ] && [ -n "$systemd" ]; then
        systemctl disable --now sonde.service || true
    elif [ -z "$root" ] && [ -x /etc/init.d/S90sonde ]; then
        /etc/init.d/S90sonde stop || true
    fi
    rm -f "$root/usr/bin/sonde" "$root/etc/init.d/S90sonde" \
        "$root/usr/lib/systemd/system/sonde.service" "$root/usr/lib/sysusers.d/sonde.conf" \
        "$root/usr/lib/tmpfiles.d/sonde.conf"
    say "removed; /etc/sonde and /var/lib/sonde are kept"
}

case ${1:-} in
    '') ;;
    --remove) remove; exit 0 ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
    *) say "no option '$1'; see --help"; exit 2 ;;
esac
[ -n "$root" ] || [ "$(id -u)" = 0 ] || { say "must run as root, or with DESTDIR set"; exit 1; }

if [ -z "$root" ] && ! "$here/usr/bin/sonde" --version >/dev/null 2>&1; then
    say "this package's program does not run here: it is for $(basename "$here" | sed 's/.*sonde-[0-9.]*-//'), this is $(uname -m)"
    exit 1
fi
put 755 usr/bin/sonde usr/bin/sonde
if [ -e "$root/etc/sonde/sonde.toml" ]; then
    cmp -s "$here/etc/sonde/sonde.toml" "$root/etc/sonde/sonde.toml" ||
        put 644 etc/sonde/sonde.toml etc/sonde/sonde.toml.new
else
    put 644 etc/sonde/sonde.toml etc/sonde/sonde.toml
fi
mkdir -p "$root/etc/sonde/conf.d" "$root/etc/sonde/secrets"
chmod 750 "$root/etc/sonde/secrets"

if [ -n "$systemd" ]; then
    put 644 usr/lib/systemd/system/sonde.service usr/lib/systemd/system/sonde.service
    put 644 usr/lib/sysusers.d/sonde.conf usr/lib/sysusers.d/sonde.conf
    put 644 usr/lib/tmpfiles.d/sonde.conf usr/lib/tmpfiles.d/sonde.conf
else
    put 755 usr/share/doc/sonde/examples/sonde.init etc/init.d/S90sonde
fi

if [ -n "$root" ]; then
    say "installed into $root"
    if [ -n "$systemd" ]; then
        say "still to do in the image: 'systemctl enable sonde' (--root=); systemd makes user and folders at the boot"
    else
        say "still to do in the image: the user and group 'sonde'; S90sonde makes the folders at each start"
    fi
    exit 0
fi

# The user, by whatever this system has.
if ! grep -q '^sonde:' /etc/passwd; then
    if [ -n "$systemd" ]; then
        systemd-sysusers sonde.conf
    elif command -v useradd >/dev/null; then
        useradd --system --user-group --home-dir /var/lib/sonde --no-create-home --shell /bin/false sonde
    elif command -v adduser >/dev/null && command -v addgroup >/dev/null; then
        grep -q '^sonde:' /etc/group || addgroup -S sonde
        adduser -S -D -H -h /var/lib/sonde -s /bin/false -G sonde sonde
    else
        # Nothing here makes users: the lines themselves, with a number that nobody has.
        number=990
        while grep -q "^[^:]*:[^:]*:$number:" /etc/passwd /etc/group; do number=$((number - 1)); done
        grep -q '^sonde:' /etc/group || echo "sonde:x:$number:" >>/etc/group
        group=$(sed -n 's/^sonde:[^:]*:\([0-9]*\):.*/\1/p' /etc/group)
        echo "sonde:x:$number:$group::/var/lib/sonde:/bin/false" >>/etc/passwd
        [ ! -e /etc/shadow ] || echo 'sonde:*:::::::' >>/etc/shadow
    fi
fi
chown root:sonde /etc/sonde/secrets
mkdir -p /var/lib/sonde
chown sonde:sonde /var/lib/sonde
chmod 750 /var/lib/sonde

if [ -n "$systemd" ]; then
    systemctl daemon-reload
    systemctl enable sonde.service
    systemctl restart sonde.service
else
    /etc/init.d/S90sonde restart
fi
say "installed; ask it how it is: sonde status"
