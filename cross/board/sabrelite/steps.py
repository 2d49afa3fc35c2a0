"""The life of one board, from the installation on. Each step takes it on from where
the one before left it, raises `Failed`, and returns a line of figures."""

import time

from . import TARGET
from .image import SERIAL
from emulated import check
from emulated.device import LOSS_WINDOW

BUS = "/dev/i2c-2"
# Its device, by which a driver lets go of it.
ADAPTER, ADAPTER_DRIVER = "21a8000.i2c", "/sys/bus/platform/drivers/imx-i2c"
SENSORS = f"""
[gauges.sensor]
interval = "1s"
[sensor.cabinet]
kind = "tmp102"
bus = "{BUS}"
address = 0x48
[sensor.nobody]
kind = "tmp102"
bus = "{BUS}"
address = 0x4a
"""
PINS = """
[sensor.door]
kind = "gpio"
chip = "/dev/gpiochip4"
line = 20
[sensor.card]
kind = "gpio"
chip = "/dev/gpiochip1"
line = 6
"""
WEATHER = """
[gauges.sensor]
interval = "1s"
[sensor.weather]
kind = "bme280"
bus = "/dev/spidev1.0"
"""
AIR = """
[sensor.air]
kind = "iio"
device = "/sys/bus/iio/devices/iio:device0"
channels = ["in_temp", "in_pressure"]
"""


def installs_from_the_tar(b):
    """A board with BusyBox alone, in 1970: no systemd, no udev, no machine id."""
    took = b.boot(clock=False)
    m = b.machine
    check(m.must("cat /proc/1/comm") == "init" and "armv7l" in m.must("uname -m"), "not what was meant to boot")
    check(m.must("date +%Y") == "1970", "this board has no clock, and yet it is not 1970")
    m.must(f"tar -xzf {b.package} && rm {b.package}")
    folder = b.package.removesuffix(".tar.gz")
    output = m.must(f"./{folder}/install.sh", 600)
    says = b.agent()
    check(m.must("stat -c %U /proc/$(cat /run/sonde.pid)") == "sonde", "it does not run as its user")
    check(m.must("stat -c '%U:%G %a' /var/lib/sonde") == "sonde:sonde 750", "its state is not its own")
    device = says["device"]
    check((device["id"], device["id_source"]) == (SERIAL, "device-tree"), device)
    check(says["uplinks"] == [], says["uplinks"])
    b.more_ticks(1)
    people = "support:x:1001:1001::/:/bin/sh", "stranger:x:1002:1002::/:/bin/sh"
    m.must("".join(f"echo {one} >> /etc/passwd; " for one in people) + "true")
    b.join("support", "sonde")
    words = m.must("su support -c 'sonde status'")
    check(SERIAL in words, words)
    code, refused = m.run("su stranger -c 'sonde status'")
    check(code == 3, f"a stranger got {code}: {refused}")
    return f"booted in {took:.0f} s; {output.splitlines()[-1]}; {TARGET}, device {device['id']}"


def samples_in_1970_and_sends_it_with_the_right_time(b):
    """Without a link before the clock is set, as where the modem brings the time."""
    b.machine.link(False)
    since = time.time()
    b.configure()
    b.restart()
    first = b.more_ticks(8)
    instance = b.instance()
    check(b.machine.must("date +%Y") == "1970", "somebody has set the clock")
    b.set_clock()
    b.more_ticks(2)
    b.machine.link(True)
    b.both_have(instance, first + 2)
    b.no_holes(instance)
    b.right_times(instance, since)
    return f"{first} ticks of 1970 came with their right time"


def reads_a_thermometer_on_its_bus(b):
    m = b.machine
    m.temperature("thermometer", 31.5)
    b.configure(SENSORS)
    # Whoever may not open the bus is told so, and it is no temperature.
    b.wait("without rights it is denied", lambda: b.sensor("cabinet").get("missing") == "denied")
    b.join("sonde", "i2c")
    b.restart()
    b.arrives("hw.temperature", "cabinet/temperature", 31.5)
    for celsius in (-12.5, 0, 124.5):
        m.temperature("thermometer", celsius)
        b.arrives("hw.temperature", "cabinet/temperature", celsius)
    # No TMP102 can measure that.
    m.temperature("thermometer", 127.5)
    b.wait("127.5 Cel is garbage", lambda: b.sensor("cabinet").get("missing") == "garbage")
    m.temperature("thermometer", -40)
    b.arrives("hw.temperature", "cabinet/temperature", -40)
    check(all(value != 127.5 for _, value in b.otlp.of("hw.temperature", "cabinet/temperature")), "garbage was sent")
    nobody = b.sensor("nobody")
    check((nobody["state"], nobody["missing"], nobody["reads"]) == ("absent", "gone", 0), nobody)
    check(b.otlp.latest("hw.temperature", "nobody/temperature") is None, "a sensor that is not there gave a value")
    return f"five temperatures, {b.sensor('cabinet')['reads']} reads; 127.5 is garbage; the one that is not there is gone"


def number(b, command):
    return float(b.machine.must(command))


def between(b, what, command, name, scale=1, slack=0.0, **attributes):
    """The gauge lies between what BusyBox sees before and after it was read."""
    before = number(b, command)
    b.more_ticks(2)
    one = b.gauge(name, **attributes)
    after = number(b, command)
    low, high = min(before, after) * scale - slack, max(before, after) * scale + slack
    check(one.get("value") is not None and low <= one["value"] <= high, f"{what}: {low} to {high} by BusyBox, by the gauge {one}")
    return one["value"]


def sees_a_32_bit_kernel_as_it_is(b):
    """Every default family, against what BusyBox says of the same kernel."""
    b.configure()
    b.restart()
    b.more_ticks(3)
    memory = number(b, "sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo") * 1024
    check(b.gauge("system.memory.limit")["value"] == memory, "memory.limit")
    between(b, "available memory", "free | sed -n 's/^Mem:.* //p'", "system.memory.linux.available", 1024, memory / 50)
    root = dict(system__filesystem__mountpoint="/")
    size = number(b, "df -k / | tail -n 1 | sed 's/^[^ ]* *//; s/ .*//'") * 1024
    check(b.gauge("system.filesystem.limit", **root)["value"] == size, "size of the root file system")
    between(b, "uptime", "cut -d ' ' -f 1 /proc/uptime", "system.uptime", 1, 0.1)
    between(b, "load", "cut -d ' ' -f 1 /proc/loadavg", "sonde.load.1m", 1, 0.3)
    net = "sed -n 's/^ *eth0: *//p' /proc/net/dev | sed 's/  */ /g' | cut -d ' ' -f {}"
    between(b, "received", net.format(1), "system.network.io", network__interface__name="eth0", network__io__direction="receive")
    between(b, "sent", net.format(9), "system.network.io", network__interface__name="eth0", network__io__direction="transmit")
    disk = "sed -n 's/^.* mmcblk3 //p' /proc/diskstats | cut -d ' ' -f {}"
    between(b, "read", disk.format(3), "system.disk.io", 512, system__device="mmcblk3", disk__io__direction="read")
    between(b, "written", disk.format(7), "system.disk.io", 512, system__device="mmcblk3", disk__io__direction="write")
    cpu = "sed -n 's/^cpu  \\([0-9]*\\) [0-9]* \\([0-9]*\\) \\([0-9]*\\) .*/\\{}/p' /proc/stat"
    for place, mode in ((2, "system"), (3, "idle")):
        between(b, mode, cpu.format(place), "system.cpu.time", 0.01, 0.01, cpu__mode=mode)
    stalled = "sed -n 's/^some .*total=//p' /proc/pressure/cpu"
    between(b, "stalled", stalled, "sonde.pressure.time", 1e-6, 0.001, sonde__resource="cpu", sonde__stall="some")
    gauges = b.status()["gauges"]
    absent = {}
    for one in gauges:
        value = one.get("value")
        if value is None:
            absent.setdefault(one.get("missing"), set()).add(one["name"])
        else:
            check(abs(value) < 2**53 and (value >= 0 or one["unit"] == "Cel"), f"no such thing: {one}")
            check(not one["name"].endswith((".utilization", ".share")) or value <= 1, f"no share: {one}")
    # A timeout is the emulator's: a register behind a bus takes it hundreds of milliseconds.
    check(absent.keys() <= {"unsupported", "denied", "gone", "first", "timeout"}, f"absent for no good reason: {absent}")
    families = {one["name"].split(".")[1] for one in gauges}
    check(families >= {"cpu", "memory", "disk", "network", "load", "filesystem", "pressure"}, families)
    told = {why: sorted(names) for why, names in absent.items()}
    return f"{len(gauges)} series, {sum(one.get('value') is not None for one in gauges)} with a value, 13 the same as BusyBox says; absent: {told or 'none'}"


def reads_sixteenths_when_the_chip_is_told_to_give_them(b):
    """The chip wakes with 9 bits; its configuration is somebody else's affair, and so is a bus shared with them."""
    b.machine.must("i2cset -y 2 0x48 1 0x60")
    for celsius in (-12.25, 31.1875):
        b.machine.temperature("thermometer", celsius)
        b.arrives("hw.temperature", "cabinet/temperature", celsius)
    return "-12.25 and 31.1875"


def follows_a_pin(b):
    """Line 20 of the fifth GPIO chip; and one that the kernel itself has taken."""
    m = b.machine
    b.join("sonde", "gpio")
    b.configure(SENSORS + PINS)
    b.restart()
    for level in (0, 1, 0, 1):
        m.pin("/machine/soc/gpio5", 20, level)
        b.arrives("sonde.sensor.level", "door/level", level)
    b.wait("the line of the card's slot was asked for", lambda: b.sensor("card")["failures"] > 0)
    taken = b.sensor("card")
    check(taken["state"] == "absent" and taken["reads"] == 0, taken)
    return f"0, 1, 0, 1; a line that the kernel has is {taken.get('missing')}"


def finds_no_chip_on_an_open_spi(b):
    """Transfers that are answered by an open line are no temperature of 0."""
    b.configure(WEATHER)
    b.wait("without rights it is denied", lambda: b.sensor("weather").get("missing") == "denied")
    b.join("sonde", "spi")
    b.restart()
    b.wait("it was asked", lambda: b.sensor("weather")["failures"] > 1)
    weather = b.sensor("weather")
    check((weather["state"], weather["reads"]) == ("absent", 0) and weather.get("missing") in ("gone", "garbage"), weather)
    interrupts = number(b, "sed -n 's/ *GPC .*200c000.spi//p' /proc/interrupts | sed 's/^[^:]*://; s/^ *//; s/ .*//'")
    check(interrupts > 0, "no transfer took place")
    return f"{interrupts:.0f} interrupts of the controller, absent as {weather.get('missing')}"


def reads_what_the_kernel_has_drivers_for(b):
    """Industrial I/O on I2C, hwmon on I2C and, of the old kind, on SPI."""
    m = b.machine
    m.temperature("thermometer2", 61.5)
    m.must("cd /sys/bus/i2c/devices/i2c-2 && echo lm75 0x49 > new_device && echo dps310 0x77 > new_device")
    b.configure(SENSORS + PINS + AIR + '[gauges.hardware]\ninterval = "1s"\n')
    b.restart()
    b.arrives("hw.temperature", "lm75/2-0049/temp1", 61.5)
    b.arrives("hw.voltage", "max1111/spi4.0/in0", 0.8)
    folder = "/sys/bus/iio/devices/iio:device0"
    celsius = number(b, f"cat {folder}/in_temp_input") / 1000
    pascal = number(b, f"cat {folder}/in_pressure_input") * 1000
    b.arrives("hw.temperature", "air/temp", celsius)
    b.arrives("sonde.sensor.pressure", "air/pressure", pascal)
    return f"61.5 Cel (lm75), 0.8 V (max1111), {celsius} Cel and {pascal:.0f} Pa (dps310)"


def lives_through_a_bus_that_goes_and_comes(b):
    """The adapter's driver lets go of it while the agent is away, and again while it runs."""
    m = b.machine
    m.must("/etc/init.d/S90sonde stop")
    m.must(f"echo {ADAPTER} > {ADAPTER_DRIVER}/unbind")
    check(m.run(f"ls {BUS}")[0] != 0, "the bus is still there")
    m.must("/etc/init.d/S90sonde start")
    b.agent()
    b.wait("the bus is missed", lambda: b.sensor("cabinet")["state"] == "absent")
    why = b.sensor("cabinet").get("missing")
    b.wait("the pin is read", lambda: b.sensor("door")["state"] == "ok")
    m.temperature("thermometer", 55)
    m.must(f"echo {ADAPTER} > {ADAPTER_DRIVER}/bind")
    b.arrives("hw.temperature", "cabinet/temperature", 55)
    # Now with the bus in use: the kernel waits for those who have it open.
    m.must(f"(echo {ADAPTER} > {ADAPTER_DRIVER}/unbind; echo done > /tmp/unbound) >/dev/null 2>&1 &")
    at = b.more_ticks(5)
    check(b.sensor("door")["state"] == "ok", b.sensor("door"))
    waits = m.run("cat /tmp/unbound")[0] != 0
    b.restart()
    b.wait("the bus is missed again", lambda: b.sensor("cabinet")["state"] == "absent")
    b.wait("its driver has let go", lambda: m.run("cat /tmp/unbound")[0] == 0)
    m.temperature("thermometer", 20)
    m.must(f"echo {ADAPTER} > {ADAPTER_DRIVER}/bind")
    b.arrives("hw.temperature", "cabinet/temperature", 20)
    return f"missing as {why}, and back both times; tick {at}; while in use the kernel {'waits' if waits else 'does not wait'}"


def keeps_what_it_sampled_while_the_link_is_down(b):
    instance = b.instance()
    b.machine.link(False)
    before = b.ticks()
    until = b.more_ticks(30)
    check(max(b.otlp.ticks[instance]) < before + 25, "the link was not down")
    b.machine.link(True)
    b.both_have(instance, until)
    b.no_holes(instance)
    return f"{until - before} ticks came afterwards"


def loses_nothing_over_an_orderly_reboot(b):
    instance = b.instance()
    b.machine.link(False)
    last = b.more_ticks(10)
    b.off()
    b.boot()
    b.agent()
    b.both_have(instance, last)
    b.no_holes(instance)
    check(b.status()["device"]["id"] == SERIAL, "another identity")
    b.arrives("hw.temperature", "cabinet/temperature", 0)
    return f"{last} ticks, the last of them without a link, all arrived"


def survives_a_power_cut(b):
    instance, since = b.instance(), b.since
    b.machine.link(False)
    b.more_ticks(20)
    last = b.ticks()
    counts = b.cut()
    b.boot()
    b.agent()
    # Everything older than the loss window must come from the card.
    b.both_have(instance, last - LOSS_WINDOW - 2)
    b.no_holes(instance)
    b.right_times(instance, since)
    came = max(b.otlp.ticks[instance])
    return f"{counts}; sampled {last}, delivered {came}: the cut cost {max(0, last - came)} ticks of 1 s, window {LOSS_WINDOW} s"


def survives_a_power_cut_in_a_boot_that_never_learned_the_time(b):
    b.off()
    b.boot(clock=False, link=False)
    b.agent()
    instance, since = b.instance(), b.since
    last = b.more_ticks(20)
    b.cut()
    b.boot()
    b.agent()
    b.both_have(instance, last - LOSS_WINDOW - 2)
    b.no_holes(instance)
    with b.otlp.lock:
        times = [when for _, when in sorted(b.otlp.ticks[instance].items())]
    check(times == sorted(times), f"not in their order: {times}")
    placed = sum(since - 2 < when < time.time() + 2 for when in times)
    return f"sampled {last}, delivered {len(times)}, {placed} of them placed between the boots that knew the time"


def is_removed_and_leaves_what_is_its_owners(b):
    m = b.machine
    folder = b.package.removesuffix(".tar.gz")
    pid = m.must("cat /run/sonde.pid")
    m.must(f"./{folder}/install.sh --remove", 300)
    check(m.run(f"test -e /proc/{pid}")[0] != 0, "it still runs")
    check(m.run("test -e /usr/bin/sonde -o -e /etc/init.d/S90sonde")[0] != 0, "the program is still there")
    m.must("test -f /etc/sonde/sonde.toml && test -n \"$(ls -A /var/lib/sonde)\"")
    return "configuration and state are kept"


STEPS = [
    installs_from_the_tar,
    samples_in_1970_and_sends_it_with_the_right_time,
    sees_a_32_bit_kernel_as_it_is,
    reads_a_thermometer_on_its_bus,
    reads_sixteenths_when_the_chip_is_told_to_give_them,
    follows_a_pin,
    finds_no_chip_on_an_open_spi,
    reads_what_the_kernel_has_drivers_for,
    lives_through_a_bus_that_goes_and_comes,
    keeps_what_it_sampled_while_the_link_is_down,
    loses_nothing_over_an_orderly_reboot,
    survives_a_power_cut,
    survives_a_power_cut_in_a_boot_that_never_learned_the_time,
    is_removed_and_leaves_what_is_its_owners,
]
