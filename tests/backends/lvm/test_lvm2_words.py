"""Names and tags that lvm2 takes, what its reports say, and what its complaints mean; no group is needed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbackend import errors
from imgbackend_lvm import lvm2_reports
from imgbackend_lvm.lvm2 import check_group, check_name, check_tag, tag_of, tags_of, value_of
from imgbackend_lvm.lvm2_errors import OutOfExtents, meaning

_LVS_PRINTED = """
  {
      "report": [
          {
              "lv": [
                  {"vg_name":"imgtest", "vg_uuid":"QvkIDA-b7uV-TR6q-0xcT-kEm3-3DHh-NnpEqK",
                   "lv_name":"thinpool", "lv_uuid":"gvfPM4-Zoat-WxHx-Lx5B-aIGX-wnsx-63RhSL",
                   "lv_path":"", "lv_size":"3221225472", "lv_attr":"twi-aotz--", "lv_tags":"", "lv_time":"1795295667",
                   "origin":"", "pool_lv":"", "data_percent":"0.00", "metadata_percent":"11.13", "chunk_size":"65536",
                   "lv_metadata_size":"4194304", "lv_when_full":"queue"},
                  {"vg_name":"imgtest", "vg_uuid":"QvkIDA-b7uV-TR6q-0xcT-kEm3-3DHh-NnpEqK",
                   "lv_name":"snap2", "lv_uuid":"7qIyh2-BF9J-1Qeq-E6ew-pxzj-W0u3-HKbkpR",
                   "lv_path":"/dev/imgtest/snap2", "lv_size":"16777216", "lv_attr":"Vri-aotz-k", "lv_tags":"b,t1",
                   "lv_time":"1795295673", "origin":".thin", "pool_lv":"thinpool", "data_percent":"6.25",
                   "metadata_percent":"", "chunk_size":"0", "lv_metadata_size":"", "lv_when_full":""},
                  {"vg_name":"imgtest", "vg_uuid":"QvkIDA-b7uV-TR6q-0xcT-kEm3-3DHh-NnpEqK",
                   "lv_name":"off", "lv_uuid":"YDhz6j-oP3H-9iEM-BuBR-Yq5z-mI4N-JLgqIG",
                   "lv_path":"/dev/imgtest/off", "lv_size":"8388608", "lv_attr":"-wi-------", "lv_tags":"",
                   "lv_time":"1795295667", "origin":"", "pool_lv":"", "data_percent":"", "metadata_percent":"",
                   "chunk_size":"0", "lv_metadata_size":"", "lv_when_full":""}
              ]
          }
      ]
  }
"""
"""Printed by lvs 2.03.16, with the fields that it is asked for."""


def test_report_of_volumes_is_read_with_lvm2s_own_names() -> None:
    pool, snapshot, inactive = lvm2_reports.volumes(_LVS_PRINTED)
    assert (pool.lv_name, pool.lv_size, pool.chunk_size, pool.lv_metadata_size) == ("thinpool", 3 << 30, 65536, 4 << 20)
    assert (pool.is_thin_pool, pool.is_thin, pool.zeroes, pool.open) == (True, False, True, True)
    assert (pool.lv_path, pool.origin, pool.pool_lv, pool.lv_when_full) == ("", None, None, "queue")
    assert (snapshot.origin, snapshot.pool_lv, snapshot.lv_tags) == (".thin", "thinpool", ("b", "t1"))
    assert (snapshot.data_percent, snapshot.metadata_percent) == (6.25, None)
    assert (snapshot.is_thin, snapshot.read_only, snapshot.active, snapshot.skips_activation) == (
        True,
        True,
        True,
        True,
    )
    assert (inactive.active, inactive.open, inactive.read_only, inactive.health) == (False, False, False, "-")
    assert inactive.data_percent is None


def test_volume_of_several_segments_is_reported_once() -> None:
    rows = json.loads(_LVS_PRINTED)["report"][0]["lv"]
    printed = json.dumps({"report": [{"lv": [rows[2], rows[2]]}]})
    assert [volume.lv_name for volume in lvm2_reports.volumes(printed)] == ["off"]


@pytest.mark.parametrize("printed", ["", "[]", '{"report": [{}]}', '{"report": [{"lv": [{"lv_name": "x"}]}]}'])
def test_report_that_cannot_be_read_is_an_error_and_no_empty_list(printed: str) -> None:
    with pytest.raises(errors.StorageError, match="report cannot be read"):
        lvm2_reports.volumes(printed)


@pytest.mark.parametrize("name", ["a", ".x", "i-1_disk.eph0", "+", "A_b+c.d-e", "x" * 117, "a-" * 39])
def test_names_that_lvm2_takes_pass(name: str) -> None:
    check_name("imgtest", name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        *(
            (name, "not a name")
            for name in ("", ".", "..", "-a", "a/b", "a b", "a\n", "ä", "a@b", "@tag", "--yes", "a%")
        ),
        *((name, "keeps") for name in ("snapshot", "snapshot1_disk", "pvmove0", "x_tdata", "x_rimage_0", "x_mlog")),
        *((name, "too long") for name in ("x" * 118, "a-" * 40, "x" * 500)),
    ],
)
def test_names_that_lvm2_refuses_are_refused_with_the_reason(name: str, why: str) -> None:
    with pytest.raises(errors.DiskError, match=why):
        check_name("imgtest", name)


@pytest.mark.parametrize("group", ["", ".", "..", "-x", "a/b", "a b", "x" * 128, "../etc", "a\n"])
def test_group_that_cannot_be_is_for_the_operator(group: str) -> None:
    with pytest.raises(errors.ConfigError, match="not a name for a volume group"):
        check_group(group)


@given(st.text(max_size=60))
def test_any_text_survives_as_a_tag(value: str) -> None:
    tag = tag_of("imgbackend.image", value)
    check_tag(tag)
    assert value_of(["other", tag, "imgbackend.image2=x"], "imgbackend.image") == value


@given(st.text(min_size=300, max_size=3000))
def test_any_long_text_survives_as_several_tags(value: str) -> None:
    tags = tags_of("imgbackend.image", value)
    for tag in tags:
        check_tag(tag)
    assert value_of(reversed(tags), "imgbackend.image") == value


def test_text_that_one_tag_cannot_hold_is_refused() -> None:
    with pytest.raises(errors.DiskError, match="no such tag"):
        tag_of("imgbackend.image", "x" * 1024)


def test_text_that_is_no_utf8_survives_as_a_tag() -> None:
    assert value_of([tag_of("key", "a\udcff")], "key") == "a\udcff"


def test_key_that_is_not_there_has_no_value() -> None:
    assert value_of(["imgbackend.disk", "imgbackend.disks=x"], "imgbackend.disk") is None


@pytest.mark.parametrize("tag", ["", "-x", "a,b", "a b", "a\n", "ä", "@x", "x" * 1025])
def test_tag_that_lvm2_refuses_is_refused(tag: str) -> None:
    with pytest.raises(errors.DiskError, match="no such tag"):
        check_tag(tag)


_COMPLAINTS = [
    (5, '  Volume group "vms" not found\n  Cannot process volume group vms\n', errors.ConfigError, "vgcreate"),
    (5, "  Pool nopool not found in Volume group vms.\n", errors.ConfigError, "no thin pool nopool in vms"),
    (
        127,
        "timeout: failed to run command '/usr/sbin/lvcreate': No such file or directory\n",
        errors.ConfigError,
        "install lvm2",
    ),
    (1, "sudo: a password is required\n", errors.ConfigError, "rules for sudo"),
    (
        1,
        "sudo: a terminal is required to read the password; either use ssh's -t\n",
        errors.ConfigError,
        "rules for sudo",
    ),
    (1, "joe is not in the sudoers file.\n", errors.ConfigError, "rules for sudo"),
    (99, "/usr/bin/oslo-rootwrap: Unauthorized command: timeout (no filter matched)\n", errors.ConfigError, "filters"),
    (
        5,
        "  WARNING: Running as a non-root user. Functionality may be unavailable.\n"
        "  /run/lock/lvm/P_global:aux: open failed: Permission denied\n",
        errors.ConfigError,
        "root_helper",
    ),
    (
        5,
        "  /dev/mapper/control: open failed: No such device\n"
        "  Failure to communicate with kernel device-mapper driver.\n"
        "  Check that device-mapper is available in the kernel.\n",
        errors.ConfigError,
        "load dm-mod",
    ),
    (
        5,
        "  thin-pool: Required device-mapper target(s) not detected in your kernel.\n",
        errors.ConfigError,
        "dm-thin-pool",
    ),
    (
        5,
        "  /usr/sbin/thin_check: execvp failed: No such file or directory\n",
        errors.ConfigError,
        "thin-provisioning-tools",
    ),
    (5, '  Failed to find logical volume "vms/x"\n', errors.DiskNotFound, "vms/x"),
    (5, '  Existing logical volume "x" not found in volume group "vms"\n', errors.DiskNotFound, "volume x"),
    (5, "  Logical volume x not found in volume group vms.\n", errors.DiskNotFound, "volume x"),
    (5, "  Snapshot origin LV x not found in Volume group vms.\n", errors.DiskNotFound, "volume x"),
    (5, '  Logical Volume "x" already exists in volume group "vms"\n', errors.DiskError, "already"),
    (5, "  Logical volume vms/x contains a filesystem in use.\n", errors.DiskBusy, "vms/x is in use"),
    (
        5,
        '  Logical volume vms/x in use.\n  Failed to find logical volume "vms/y"\n',
        errors.DiskBusy,
        "vms/x is in use",
    ),
    (1, "blkdiscard: cannot open /dev/vms/x: Device or resource busy\n", errors.DiskBusy, "/dev/vms/x is in use"),
    (124, "  Interrupted...\n  Giving up waiting for lock.\n", errors.StorageUnavailable, "within 7 s"),
    (137, "", errors.StorageUnavailable, "within 7 s"),
    (5, "  Cannot change VG vms while PVs are missing.\n", errors.StorageUnavailable, "PVs are missing"),
    (
        5,
        "  WARNING: Thin pool vms/pool is out of data space.\n"
        "  Cannot create new thin volume, free space in thin pool vms/pool reached threshold.\n",
        errors.StorageFull,
        "no space on vms/pool",
    ),
    (5, "  Please specify either size or extents with snapshots.\n", errors.CommandFailed, "ended with 5"),
]
"""Exit status and words as these tools wrote them."""


@pytest.mark.parametrize(("status", "stderr", "kind", "says"), _COMPLAINTS)
def test_complaint_becomes_the_error_that_says_what_to_do(
    status: int, stderr: str, kind: type[errors.Error], says: str
) -> None:
    error = meaning(("lvcreate", "x"), status, stderr, seconds=7)
    assert type(error) is kind
    assert says in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    "stderr",
    [
        '  Volume group "vms" has insufficient free space (3 extents): 20 required.\n',
        "  Insufficient free space: 20 extents needed, but only 3 available\n",
    ],
)
def test_lack_of_extents_keeps_both_numbers(stderr: str) -> None:
    error = meaning(("lvextend",), 5, stderr)
    assert isinstance(error, OutOfExtents)
    assert (error.needed, error.left) == (20, 3)
