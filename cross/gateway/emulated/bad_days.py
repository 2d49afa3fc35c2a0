"""Days that a gateway should not have, and has. Each finds it running and healthy,
and leaves it so."""

from . import check
from .device import NETWORK
from .image import empty_ext4
from .sinks import SlowNames
from .steps import second_agent, series

NONE = ["-nic", "none"]
ONLY_IPV6 = ["-netdev", "user,id=net,ipv4=off,ipv6=on", *NETWORK[2:]]


def goes_on_while_var_is_full(g):
    """Root keeps 5 % of the disk for itself, so that the agent's user is the one without room."""
    instance = g.instance()
    g.machine.link(False)
    g.more_ticks(3)
    free = "stat -f -c '%a %S' /var | { read blocks size; echo $((blocks * size)); }"
    g.machine.must(f"fallocate -l $({free}) /var/full; su -s /bin/sh nobody -c 'head -c 1000000 /dev/zero > /var/tmp/more' 2>/dev/null; true", 600)
    left = int(g.machine.must(free))
    check(left < 65536, f"{left} bytes are still free")
    at = g.more_ticks(30)
    spool = g.status()["spool"]
    said = spool["alarm"] or ""
    check(said or spool["limit_bytes"] < 1 << 20 or spool["lost"], f"nothing is said of the full disk: {spool}")
    g.machine.must("rm -f /var/full /var/tmp/more")
    g.machine.link(True)
    last = g.more_ticks(3)
    g.both_have(instance, last)
    g.wait("nothing waits any more", lambda: not any(one["pending_frames"] for one in g.status()["uplinks"]))
    counted = {f"{one['class']} {one['reason']}": one["items"] for one in g.status()["spool"]["lost"] if one["items"]}
    holes = g.otlp.holes()[instance]
    check(not holes or counted, f"lost and not counted: {holes}")
    return f"{left} bytes were free; {said or 'quota ' + str(spool['limit_bytes'])}; {len(holes)} of {at} ticks lost, counted: {counted}"


def finds_its_runtime_folder_gone(g):
    instance = g.instance()
    g.machine.must("rm -rf /run/sonde")
    code, said = g.machine.run("sonde status")
    check(code == 3 and "/run/sonde" in said, f"{code}: {said}")
    # It still samples and delivers, and a restart makes the folder anew.
    tick = max(g.otlp.ticks[instance])
    g.both_have(instance, tick + 5)
    g.machine.must("systemctl restart sonde")
    g.agent()
    g.new_instance(instance)
    # Without systemd, in a folder that nobody has made.
    status = second_agent(g, "root")
    check(status["agent"]["ticks"] >= 3, status["agent"])
    return said.splitlines()[0]


def finds_no_network_and_then_only_ipv6(g):
    """A boot with the loopback alone; its ticks come with the next, where IPv4 is dead
    and the name has an address of each kind."""
    instance = g.instance()
    g.off()
    g.boot_to_agent(network=NONE)
    names = g.machine.must("ls /sys/class/net").split()
    check(names == ["lo"], names)
    at, alone = g.more_ticks(10), g.instance()
    unit = g.unit("ActiveState", "NRestarts")
    check(unit == {"ActiveState": "active", "NRestarts": "0"}, unit)
    g.off()
    g.cloud.families.clear()
    g.boot_to_agent(network=ONLY_IPV6)
    g.new_instance(alone, 5)
    families = {family.name for family in g.cloud.families}
    check(families == {"AF_INET6"}, families)
    g.both_have(alone, at)
    for one in (instance, alone):
        g.no_holes(one)
    return f"{at} ticks of the boot without a network came over IPv6 with the next"


def bears_a_name_server_that_takes_its_time(g):
    instance = g.instance()
    names = SlowNames("cloud", "10.0.2.2", 4)
    try:
        g.machine.must("cp /etc/hosts /root/hosts; sed -i /cloud/d /etc/hosts; cp -L /etc/resolv.conf /root/resolv.conf 2>/dev/null; "
                       "rm -f /etc/resolv.conf; echo nameserver 10.0.2.2 > /etc/resolv.conf; systemctl restart sonde")
        # Ready, answering and sampling while the name is looked up.
        asked = names.asked
        g.agent()
        first = g.more_ticks(5)
        new = g.new_instance(instance)
        check(names.asked > asked, "the name server was never asked")
        overruns = g.status()["agent"]["overruns"]
        # One that never answers.
        names.seconds = 1e6
        g.machine.link(False)
        g.more_ticks(5)
        g.machine.link(True)
        for one in g.cloud.brokers:
            one.link(False)
            one.link(True)
        at = g.more_ticks(20)
        g.machine.must("cp /root/hosts /etc/hosts")
        g.both_have(new, at)
        g.no_holes(new)
    finally:
        names.close()
        g.machine.run("cp /root/hosts /etc/hosts; rm -f /etc/resolv.conf; cp /root/resolv.conf /etc/resolv.conf 2>/dev/null")
    return f"{names.asked} questions, 4 s each, then none answered; {first} ticks before the first answer, {overruns} overruns"


def does_without_pressure_and_the_new_cgroups(g):
    """A kernel without PSI, and the first version of cgroups."""
    instance = g.instance()
    g.off()
    g.boot_to_agent(kernel="psi=0 systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1")
    there = g.machine.must("ls -d /proc/pressure /sys/fs/cgroup/cgroup.controllers 2>/dev/null; true")
    check(there == "", f"still there: {there}")
    unit = g.unit("ActiveState", "SubState", "NRestarts")
    check(unit == {"ActiveState": "active", "SubState": "running", "NRestarts": "0"}, unit)
    new = g.new_instance(instance)
    inside = series(g.status())
    check(any(name == "system.cpu.time" for name, _ in inside), sorted(inside))
    g.no_holes(instance)
    g.no_holes(new)
    problems = [one["message"] for one in g.status()["problems"]]
    return f"{len(inside)} series; problems: {problems or 'none'}"


def lives_on_a_read_only_root(g):
    """The state is on a partition of its own, and with `/tmp` in memory (systemd/README.md
    says why) the only thing that can be written."""
    instance = g.instance()
    partition = g.folder / "state.img"
    empty_ext4(partition, 64 << 20, "state")
    second = ["-blockdev", f"driver=file,node-name=state,filename={partition}", "-device", "virtio-blk-device,drive=state"]
    g.machine.must("systemctl stop sonde && cp /etc/fstab /root/fstab && printf '%s\\n' "
                   "'LABEL=root / ext4 ro 0 1' 'tmpfs /tmp tmpfs mode=1777 0 0' 'LABEL=state /var/lib/sonde ext4 nofail 0 2' > /etc/fstab")
    # What waited stays on the other partition, for when it is seen again.
    g.off()
    g.boot_to_agent(words=second, kernel="ro")
    check(g.machine.run("touch /etc/x")[0] != 0, "the root can be written")
    mounted = g.machine.must("findmnt -n -o SOURCE,OPTIONS /var/lib/sonde")
    check(" rw" in mounted, mounted)
    new = g.new_instance(instance)
    g.machine.link(False)
    at = g.more_ticks(15)
    spool = g.status()["spool"]
    check(spool["alarm"] is None and spool["path"], spool)
    g.off()
    g.boot_to_agent(words=second, kernel="ro")
    g.both_have(new, at)
    g.no_holes(new)
    newest = g.new_instance(new)
    problems = [one["message"] for one in g.status()["problems"]]
    # The file system under the state stops answering: the thread that stores hangs, and with
    # it the keep-alives; a timer would have gone on.
    g.machine.must("mkdir -p /run/systemd/system/sonde.service.d && printf '[Service]\\nWatchdogSec=20s\\nRestartSec=1s\\n' "
                   "> /run/systemd/system/sonde.service.d/w.conf && systemctl daemon-reload && systemctl restart sonde")
    newest = g.new_instance(newest)
    g.machine.link(False)
    g.machine.must("fsfreeze -f /var/lib/sonde")
    g.wait("systemd sees that it hangs", lambda: g.machine.run("journalctl -b -u sonde --no-pager | grep -qi 'watchdog timeout'")[0] == 0)
    g.machine.must("fsfreeze -u /var/lib/sonde")
    g.machine.link(True)
    g.new_instance(newest)
    g.machine.must("systemctl stop sonde; mount -o remount,rw / && cp /root/fstab /etc/fstab")
    g.off()
    g.boot_to_agent()
    return f"{at} ticks over a restart; problems: {problems or 'none'}; a frozen file system ends the keep-alives"


BAD_DAYS = [
    goes_on_while_var_is_full,
    finds_its_runtime_folder_gone,
    bears_a_name_server_that_takes_its_time,
    finds_no_network_and_then_only_ipv6,
    does_without_pressure_and_the_new_cgroups,
    lives_on_a_read_only_root,
]
