"""Turns the output of `cargo test` into JUnit XML, where cargo-nextest (which
writes its own) is not installed. Passes everything through; prints the sum as
the last line; ends with 1 if a test failed or none ran.

Usage: cargo test … 2>&1 | junit.py FILE
"""

import re
import sys
import xml.etree.ElementTree as xml

RUNNING = re.compile(r"^\s+Running (\S+).*\(.*/(\S+?)-[0-9a-f]{16}\)")
TEST = re.compile(r"^test (\S+)(?: - should panic)? \.\.\. (ok|FAILED|ignored)")
STDOUT = re.compile(r"^---- (\S+) stdout ----$")


def main():
    suites, suite, failures, details, reading = [], None, {}, {}, None
    for line in sys.stdin:
        sys.stdout.write(line)
        sys.stdout.flush()
        if found := RUNNING.match(line):
            suite = xml.Element("testsuite", name=f"{found[2]}::{found[1]}")
            suites.append(suite)
            reading = None
        elif (found := TEST.match(line)) and suite is not None:
            case = xml.SubElement(suite, "testcase", name=found[1], classname=suite.get("name"))
            if found[2] == "ignored":
                xml.SubElement(case, "skipped")
            elif found[2] == "FAILED":
                failures[(suite.get("name"), found[1])] = xml.SubElement(case, "failure")
        elif (found := STDOUT.match(line)) and suite is not None:
            reading = (suite.get("name"), found[1])
        elif line.startswith("failures:"):
            reading = None
        elif reading:
            details[reading] = details.get(reading, "") + line
    for key, failure in failures.items():
        text = details.get(key, "no output")
        # XML has no control characters but tab and newline.
        failure.text = re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd]", "", text)
    ran = sum(len(suite) for suite in suites)
    root = xml.Element("testsuites", name="sonde", tests=str(ran), failures=str(len(failures)))
    for suite in suites:
        failed = sum(1 for case in suite if case.find("failure") is not None)
        suite.set("tests", str(len(suite)))
        suite.set("failures", str(failed))
        root.append(suite)
    xml.ElementTree(root).write(sys.argv[1], encoding="utf-8", xml_declaration=True)
    print(f"Summary: {ran} tests run, {ran - len(failures)} passed, {len(failures)} failed")
    sys.exit(1 if failures or not ran else 0)


main()
