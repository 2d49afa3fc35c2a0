"""Ends of boots and of runs, and what the next start tells of them (docs/BOOT.md):
in the status, as an event and as a gauge at the collector."""

from . import ROOT, check
from .device import LOSS_WINDOW

# The last 4 MiB of the memory are nobody's, so that a panic's last words outlive the reset.
PSTORE = "mem=508M ramoops.mem_address=0x5fc00000 ramoops.mem_size=0x100000 ramoops.record_size=0x10000"
CUTS = 4


def told(g, what, reason, seen):
    """The agent tells of the last `what` that it ended by `reason`, with `seen` among the
    evidence; in the status, the event and, of a boot, the gauge. Returns the evidence."""
    said = g.agent()
    instance, end = said["device"]["attributes"]["service.instance.id"], said["boot"][f"last_{what}"]
    check(end["reason"] == reason, f"{reason} expected of the {what}, said is {end}")
    check(seen in "; ".join(end["evidence"]), f"no '{seen}' among {end}")

    def event():
        names = {"boot": ("sonde.boot.end", "sonde.boot.failed"), "run": ("sonde.agent.end", "sonde.agent.failed")}[what]
        mine = [(name, of) for name, start, of in g.cloud.events if start == instance and name in names]
        return [name for name, of in mine if of["reason"] == reason and seen in of["evidence"]]

    g.wait(f"the event of a {what} that ended by {reason}", event)
    good = reason in ("clean", "stopped", "boot")
    check(event()[0].endswith(".end") == good, f"{event()} for {reason}")
    if what == "boot":
        count = said["boot"]["count"]
        for name, book in g.cloud.books():
            for point in ((instance, "sonde.boot.reason", reason, 1), (instance, "sonde.boot.count", "", count)):
                g.wait(f"{point} at the {name}", lambda book=book, point=point: point in book.reasons)
    return "; ".join(end["evidence"])


def survives_power_cuts_and_says_what_it_knows(g):
    """Each while the link is down, and while writes are on their way to the flash."""
    totals, lost = {"kept": 0, "torn": 0, "lost": 0}, []
    for number in range(CUTS):
        instance = g.instance()
        g.both_have(instance, 3)
        g.machine.link(False)
        g.more_ticks(8 + 4 * number)
        last = g.ticks()
        counts = g.cut(unflushed=1 + number)
        for fate, count in counts.items():
            totals[fate] += count
        # A flush that takes its time is met by more writes.
        g.boot_to_agent(slowest=0.5 if number + 1 < CUTS else 0)
        # Everything older than the loss window must come from flash.
        g.both_have(instance, last - LOSS_WINDOW - 2)
        g.no_holes(instance)
        came = max(g.otlp.ticks[instance])
        lost.append(max(0, last - came))
        # Without a register that tells why it was reset, a cut looks like a hang.
        evidence = told(g, "boot", "unknown", "the agent was not stopped before")
        told(g, "run", "boot", "")
    check(totals["torn"] + totals["lost"] > 0, f"no cut met a write that was not flushed: {totals}")
    return f"{CUTS} cuts, writes not flushed: {totals}; ticks of 1 s lost at each: {lost}, window {LOSS_WINDOW} s; told as unknown: {evidence}"


def tells_why_its_boots_ended(g):
    """Power off, reboot, and panics: with a pstore that only root may see, then with one that
    is opened by the drop-in."""
    g.off()
    g.boot_to_agent(kernel=PSTORE, resets=True)
    said = [told(g, "boot", "clean", "shut")]
    check(g.machine.must("ls -d /sys/fs/pstore; cat /sys/module/pstore/parameters/backend").split()[-1] == "ramoops", "no ramoops")
    count = g.status()["boot"]["count"]
    told(g, "run", "stopped", "")
    panic = "echo c > /proc/sysrq-trigger"
    g.reset(panic)
    said.append(told(g, "boot", "unknown", "may not be read by this user"))
    g.machine.must("rm -f /var/lib/systemd/pstore/*")
    example = (ROOT / "systemd/examples/pstore.conf").read_text()
    g.drop_in("pstore", [line for line in example.splitlines() if line.startswith("Exec")])
    # With the memory of a machine that was without power: after the first panic Debian's kernel
    # was seen to record no second one.
    g.off()
    g.boot_to_agent(kernel=PSTORE, resets=True)
    told(g, "boot", "clean", "shut")
    g.machine.must("sync")
    g.reset(panic)
    said.append(told(g, "boot", "panic", "sysrq triggered crash"))
    # It is told once: its record is still there after an orderly reboot.
    g.reset("systemctl reboot")
    said.append(told(g, "boot", "clean", "shut"))
    now = g.status()["boot"]["count"]
    check(now == count + 4, f"{now} boots counted, {count + 4} were")
    g.drop_in("pstore", None)
    return " | ".join(said)


def tells_why_its_runs_ended(g):
    """Signals that are no panic, want of memory in its own cgroup, and an orderly restart."""
    instance, said, before = g.instance(), [], g.status()["boot"]["restarts"]
    g.drop_in("quick", ["RestartSec=1s"])
    for signal in ("ABRT", "SEGV", "KILL"):
        g.machine.must(f"systemctl kill --signal={signal} sonde")
        if signal == "SEGV":
            # The first one only takes Rust's own handler away, which finds no overflown stack.
            g.machine.must("sleep 1; systemctl kill --signal=SEGV sonde")
        instance = g.new_instance(instance)
        said.append(f"{signal}: {told(g, 'run', 'killed', 'without a word')}")
    # Less than the program itself needs.
    g.machine.must("systemctl set-property --runtime sonde MemoryHigh=infinity MemoryMax=600K; true")
    g.wait("the kernel kills it for memory", lambda: "oom-kill" in g.machine.run("journalctl -b -u sonde --no-pager | grep -i oom-kill")[1])
    g.machine.must("systemctl set-property --runtime sonde MemoryHigh=24M MemoryMax=32M; systemctl restart sonde")
    g.agent()
    oom = lambda: [of["evidence"] for _, _, of in g.cloud.events if of.get("reason") == "oom"]  # noqa: E731
    g.wait("the event of a run that ended for memory", oom)
    restarts = g.status()["boot"]["restarts"]
    check(restarts.get("oom", 0) >= 1 and restarts.get("killed", 0) >= before.get("killed", 0) + 3, restarts)
    instance = g.new_instance(instance)
    g.machine.must("systemctl restart sonde")
    g.new_instance(instance)
    told(g, "run", "stopped", "")
    g.machine.must("rm -rf /run/systemd/system.control/sonde.service.d; true")
    g.drop_in("quick", None)
    g.machine.must("systemctl restart sonde")
    g.agent()
    return f"{said}; {oom()}; restarts {restarts}"


def watches_a_unit_in_the_new_cgroups(g):
    """`[process.NAME] unit=` by the cgroup of a real unit, with and without the sandbox."""
    g.machine.must("printf '[process.journal]\\nunit = \"systemd-journald.service\"\\n[process.nobody]\\nunit = \"nothing.service\"\\n' "
                   ">> /etc/sonde/sonde.toml && sonde check && systemctl reload sonde")

    def one(name, which):
        found = [at for at in g.status()["gauges"] if at["name"] == name and (at.get("attributes") or {}).get("sonde.process.name") == which]
        return found[0].get("value") if found else None

    g.wait("the unit's processes", lambda: one("sonde.process.count", "journal") == 1)
    g.wait("a unit that is not there", lambda: one("sonde.process.count", "nobody") == 0)
    resident = int(g.machine.must("awk '/VmRSS/ {print $2}' /proc/$(systemctl show systemd-journald -p MainPID --value)/status")) * 1024
    said = one("process.memory.usage", "journal")
    check(said and abs(said - resident) < resident / 4, f"{said} of memory, /proc says {resident}")
    g.machine.must("systemctl restart systemd-journald")
    g.wait("its restart is counted", lambda: one("sonde.process.restarts", "journal") == 1)
    g.machine.must("cp /root/sonde.toml /etc/sonde/sonde.toml && systemctl reload sonde")
    return f"{said} bytes, /proc says {resident}; one restart seen"


ENDS = [
    survives_power_cuts_and_says_what_it_knows,
    tells_why_its_boots_ended,
    tells_why_its_runs_ended,
    watches_a_unit_in_the_new_cgroups,
]
