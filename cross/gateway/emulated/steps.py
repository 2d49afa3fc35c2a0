"""The life of one gateway, from the installation to the purge. Each step takes it
on from where the one before left it, raises `Failed`, and returns a line of figures."""

import json
import time

from . import check
from .device import of_version


def installs_like_any_package(g):
    """A fresh image: no machine id, hostname localhost, no configuration, no credentials."""
    took = g.boot()
    output = g.machine.must(f"dpkg -i /root/{g.package}", 600)
    unit = g.unit("ActiveState", "SubState", "Type", "NRestarts", "StatusText")
    check(unit["ActiveState"] == "active" and unit["SubState"] == "running", f"the unit: {unit}\n{output}")
    check(unit["Type"] == "notify" and unit["NRestarts"] == "0", unit)
    says = g.agent()
    device = says["device"]
    check(g.machine.must("cat /etc/machine-id") != "", "no machine id after the first boot")
    check(device["id_source"] == "machine-id" and len(device["id"]) == 32, device)
    # Without anything to send to it is a normal state: it samples and says what is missing.
    check(says["uplinks"] == [], says["uplinks"])
    problems = [one["message"] for one in says["problems"]]
    check(any("No uplink is configured" in one for one in problems), problems)
    g.more_ticks(1)
    g.wait("the line in systemctl status", lambda: "no uplink" in g.unit("StatusText")["StatusText"])
    return f"booted in {took:.0f} s; device {device['id']}"


def runs_as_its_own_user(g):
    owner = g.machine.must("stat -c %U /proc/$(systemctl show sonde -p MainPID --value)")
    check(owner.strip() == "sonde", f"runs as {owner}")
    exposure = g.machine.must("systemd-analyze security --no-pager sonde.service | tail -1")
    figure = float(exposure.split(":")[1].split()[0])
    check(figure <= 1.5, exposure)
    return f"exposure {figure}"


def takes_its_configuration_and_delivers(g):
    g.machine.must("cp /root/sonde.toml /etc/sonde/sonde.toml && sonde check && systemctl reload sonde")
    # Who it is and which clock it trusts takes a start.
    g.machine.must("systemctl restart sonde")
    g.wait("the start under its own name", lambda: g.agent()["device"]["id"] == "gateway-1")
    instance = g.instance()
    for name, book in g.cloud.books():
        g.wait(f"ticks at the {name}", lambda book=book: 5 in book.ticks.get(instance, {}))
    wanted = ("system.cpu.time", "system.memory.usage", "system.filesystem.usage", "system.network.io", "process.memory.usage")
    for name in wanted:
        check(name in g.otlp.names, f"no {name} among {sorted(g.otlp.names)}")
    return f"{len(g.otlp.names)} metrics"


def answers_an_ordinary_user_of_its_group(g):
    g.machine.must("useradd -m support && usermod -aG sonde support && useradd -m stranger")
    says = g.machine.must("su support -c 'sonde status'")
    check("gateway-1" in says, says)
    code, refused = g.machine.run("su stranger -c 'sonde status'")
    check(code == 3, f"a stranger got {code}: {refused}")
    return says.splitlines()[0]


# What the agent knows of itself, which differs between two agents.
OWN = ("process.", "sonde.sampler.", "sonde.gauge.", "sonde.spool.", "sonde.uplink.", "sonde.job.", "sonde.event.",
       "sonde.runtime.", "sonde.task.", "sonde.queue.", "sonde.process.", "sonde.agent.", "sonde.receiver.", "sonde.outbox.")  # fmt: skip
# What does not change while both look.
FIXED = (".limit", ".logical.count")


def series(status):
    return {
        (one["name"], json.dumps(one.get("attributes"), sort_keys=True)): one
        for one in status["gauges"]
        if not one["name"].startswith(OWN)
    }


def second_agent(g, user):
    """What an agent without the unit sees."""
    folder = f"/tmp/outside-{user}"
    g.machine.must(
        f"mkdir -p {folder} && sed 's/gateway-1/outside/; /uplink/,$d' /root/sonde.toml > {folder}/sonde.toml && "
        f"printf '[paths]\\nstate = \"{folder}/state\"\\nruntime = \"{folder}/run\"\\n' >> {folder}/sonde.toml && "
        f"chown -R {user}: {folder}"
    )
    g.machine.must(
        f"setpriv --reuid {user} --regid {user} --init-groups sonde run --config {folder}/sonde.toml "
        f">{folder}/log 2>&1 & echo $! >/tmp/outside.pid"
    )
    ask = f"sonde status --json --socket {folder}/run/status.sock"
    try:
        g.wait(
            "three ticks of the agent outside",
            lambda: (lambda code, text: code == 0 and json.loads(text)["agent"]["ticks"] >= 3)(*g.machine.run(f"{ask} 2>/dev/null")),
        )
        return json.loads(g.machine.must(ask))
    finally:
        g.machine.must(f"kill $(cat /tmp/outside.pid); while kill -0 $(cat /tmp/outside.pid) 2>/dev/null; do sleep 0.1; done; rm -rf {folder}")


def sees_what_the_sandbox_must_not_hide(g):
    """The same user outside the sandbox sees the same series, and the same of what stands still.
    What only root would see is told, not wanted: the agent is not root."""
    outside, inside = second_agent(g, "sonde"), g.status()
    one, other = series(inside), series(outside)
    check(one.keys() == other.keys(), f"only inside: {sorted(one.keys() - other.keys())}; only outside: {sorted(other.keys() - one.keys())}")
    for key, gauge in one.items():
        same = (gauge.get("missing"), gauge.get("value") is None) == (other[key].get("missing"), other[key].get("value") is None)
        check(same, f"{key}: {gauge} inside, {other[key]} outside")
        if key[0].endswith(FIXED):
            check(gauge.get("value") == other[key].get("value"), f"{key}: {gauge} inside, {other[key]} outside")
    valued = sum(1 for gauge in one.values() if gauge.get("value") is not None)
    root = series(second_agent(g, "root"))
    hidden = {key for key, gauge in root.items() if gauge.get("value") is not None and one.get(key, {}).get("value") is None}
    return f"{len(one)} series, {valued} with a value, inside and outside; only root sees {sorted({name for name, _ in hidden}) or 'nothing more'}"


def waits_for_its_secret_and_takes_a_new_one_without_a_restart(g):
    """A credential that is not there yet, one that comes, one that is rotated; then one from systemd."""
    pid = g.unit("MainPID")["MainPID"]
    g.cloud.secret = "Bearer first"
    g.machine.must(
        "sed -i '/^endpoint/a headers_file = \"/etc/sonde/secrets/otlp\"' /etc/sonde/sonde.toml && sonde check; systemctl reload sonde"
    )
    g.wait("the missing secret is named", lambda: any("/etc/sonde/secrets/otlp" in (up["last_error"] or "") for up in g.status()["uplinks"]))
    at = g.more_ticks(3)
    instance = g.instance()
    check(at not in g.otlp.ticks[instance], "sent without its secret")
    put = "printf 'Authorization: %s\\n' '{}' > /etc/sonde/secrets/new && chgrp sonde /etc/sonde/secrets/new && chmod 640 /etc/sonde/secrets/new && mv /etc/sonde/secrets/new /etc/sonde/secrets/otlp"
    g.machine.must(put.format("Bearer first"))
    g.both_have(instance, at)
    # Rotated at the server first: everything is refused until the file says the same.
    g.cloud.secret = "Bearer second"
    at = g.more_ticks(5)
    g.machine.must(put.format("Bearer second"))
    g.both_have(instance, at)
    check(g.unit("MainPID")["MainPID"] == pid, "it was restarted")
    g.no_holes(instance)
    # The same from systemd, in memory that nobody else sees.
    g.cloud.secret = "Bearer credential"
    g.machine.must(put.format("Bearer credential"))
    g.drop_in("credentials", ["LoadCredential=otlp-headers:/etc/sonde/secrets/otlp"])
    g.machine.must("sed -i 's#/etc/sonde/secrets/otlp#/run/credentials/sonde.service/otlp-headers#' /etc/sonde/sonde.toml && systemctl restart sonde")
    instance = g.new_instance(instance)
    check(g.cloud.secrets >= {"Bearer first", "Bearer second", "Bearer credential"}, g.cloud.secrets)
    # As it was.
    g.cloud.secret = None
    g.drop_in("credentials", None)
    g.machine.must("cp /root/sonde.toml /etc/sonde/sonde.toml; rm -f /etc/sonde/secrets/otlp; sync; systemctl restart sonde")
    g.new_instance(instance)
    return "missing, then there, then rotated, then from systemd; nothing lost"


def keeps_what_it_sampled_while_the_link_is_down(g):
    instance = g.instance()
    g.machine.link(False)
    before = g.ticks()
    until = g.more_ticks(30)
    check(max(g.otlp.ticks[instance]) < before + 25, "the link was not down")
    g.machine.link(True)
    g.both_have(instance, until)
    g.no_holes(instance)
    return f"{until - before} ticks came afterwards"


def is_started_again_when_it_stands_still(g):
    """A process that is stopped sends no keep-alive, and systemd does not wait for ever."""
    g.drop_in("watchdog", ["WatchdogSec=20s", "RestartSec=1s"])
    instance = g.instance()
    g.machine.must("systemctl restart sonde")
    instance = g.new_instance(instance)
    # It outlives its own limit twice over while it works.
    g.more_ticks(45)
    before = g.unit("NRestarts", "MainPID")
    check(before["NRestarts"] == "0", f"restarted without a reason: {before}")
    g.machine.must(f"bash -c 'kill -STOP {before['MainPID']}'")
    g.wait("systemd starts it again", lambda: g.unit("NRestarts")["NRestarts"] == "1")
    why = g.machine.must("journalctl -u sonde --no-pager | grep -i watchdog | tail -1")
    g.new_instance(instance)
    g.drop_in("watchdog", None)
    g.machine.must("systemctl restart sonde")
    g.agent()
    return why.split(": ", 1)[-1]


def bears_a_clock_that_is_wrong_at_boot(g):
    instance = g.instance()
    g.off()
    g.boot_to_agent(["-rtc", "base=2001-02-03T04:05:06"])
    new = g.new_instance(instance, 5)
    off = time.time() - g.status()["clock"]["unix_ns"] / 1e9
    # systemd lifts it to the day it was built.
    check(off > 86400, f"the clock is only {off:.0f} s behind")
    g.machine.must(f"date -s @{time.time():.0f}")
    at = g.more_ticks(5)
    g.both_have(new, at)
    g.no_holes(new)
    return f"{off / 86400:.0f} days behind; sampling went on over the step"


def is_upgraded_while_it_runs(g):
    instance = g.instance()
    g.machine.link(False)
    at = g.more_ticks(5)
    g.machine.must("echo '# mine' >> /etc/sonde/sonde.toml")
    output = g.machine.must(f"dpkg -i --force-confdef --force-confold /root/{g.later}", 600)
    check("# mine" in g.machine.must("cat /etc/sonde/sonde.toml"), "the configuration was replaced")
    g.agent()
    check(g.machine.must("dpkg-query -W -f '${Version}' sonde") == g.version + "+1", "not the later version")
    g.machine.link(True)
    g.both_have(instance, at)
    g.new_instance(instance)
    g.no_holes(instance)
    return output.splitlines()[-1] if output else ""


def sets_newer_segments_aside_and_resumes_them(g):
    """A later version stored in a later format; the earlier one must leave that alone, and
    the later one finds it again. The format is played: the version in the headers is."""
    instance = g.instance()
    g.machine.link(False)
    since = g.ticks()
    g.more_ticks(12)
    # An orderly end: all that was sampled is on flash.
    g.machine.must("systemctl stop sonde", 300)
    folder = "/var/lib/sonde/spool/normal"
    segments = g.machine.must(f"ls {folder}/*.seg").split()
    check(segments, "nothing was stored")
    headers = {path: g.first_bytes(path) for path in segments}
    for path, header in headers.items():
        g.overwrite(path, of_version(header, 2))
    sums = g.machine.must(f"cd {folder} && sha256sum {' '.join(path.rsplit('/', 1)[1] for path in segments)}")
    output = g.machine.must(f"dpkg -i --force-downgrade --force-confold /root/{g.package}", 600)
    check("downgrading" in output, output)
    g.machine.must("systemctl start sonde")
    spool = g.agent()["spool"]
    check(spool["newer_segments"] == len(segments), f"{spool['newer_segments']} counted of {len(segments)}")
    lost = {(one["class"], one["reason"]): one["items"] for one in spool["lost"]}
    g.machine.link(True)
    # The earlier version works on beside them, and delivers what is its own.
    second = g.new_instance(instance, 10)
    held = [tick for tick in range(since, since + 10) if tick in g.otlp.ticks[instance]]
    spool = g.status()["spool"]
    check({(one["class"], one["reason"]): one["items"] for one in spool["lost"]} == lost, f"counted as lost: {spool['lost']}, before {lost}")
    now = g.machine.must(f"cd {folder} && sha256sum {' '.join(path.rsplit('/', 1)[1] for path in segments)}")
    check(now == sums, "the newer segments were touched")
    check(len(held) < 10, "what was set aside was delivered by the wrong version")
    # The later version again, which knows the format.
    g.machine.must("systemctl stop sonde", 300)
    for path, header in headers.items():
        g.overwrite(path, header)
    g.machine.must(f"dpkg -i --force-confold /root/{g.later}", 600)
    g.machine.must("systemctl start sonde")
    spool = g.agent()["spool"]
    check(spool["newer_segments"] == 0, f"still set aside: {spool['newer_segments']}")
    g.both_have(instance, since + 12)
    g.no_holes(instance)
    g.no_holes(second)
    return f"{len(segments)} segments aside and untouched; {max(g.otlp.ticks[instance]) - since + 1} ticks came from them afterwards"


def is_purged_without_a_trace(g):
    g.machine.must("dpkg -P sonde", 600)
    left = g.machine.must("ls -d /var/lib/sonde /etc/sonde/sonde.toml /usr/bin/sonde /run/sonde 2>/dev/null; true")
    check(left == "", f"left behind: {left}")
    check(g.machine.run("systemctl cat sonde")[0] != 0, "the unit is still there")
    check(g.machine.run("systemctl is-active sonde")[0] != 0, "it still runs")
    return "nothing left"


STEPS = [
    installs_like_any_package,
    runs_as_its_own_user,
    takes_its_configuration_and_delivers,
    answers_an_ordinary_user_of_its_group,
    sees_what_the_sandbox_must_not_hide,
    waits_for_its_secret_and_takes_a_new_one_without_a_restart,
    keeps_what_it_sampled_while_the_link_is_down,
    is_started_again_when_it_stands_still,
    bears_a_clock_that_is_wrong_at_boot,
    is_upgraded_while_it_runs,
    sets_newer_segments_aside_and_resumes_them,
]
LAST = [is_purged_without_a_trace]
