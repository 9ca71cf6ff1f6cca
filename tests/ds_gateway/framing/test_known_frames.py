"""Frames from specifications and data sheets, and the check values of the CRC catalogue."""

from __future__ import annotations

from typing import Any, Final

import pytest

from ds_gateway.config.crc_catalogue import catalogue, catalogue_name, crc_model
from ds_gateway.config.framing import FramingSettings
from ds_gateway.framing import build_framer
from ds_gateway.framing.checks import sum_of, xor_of

# What an Iskra MT382 sends on its P1 port (DSMR 5.0); the CRC that the companion standard prints in its own
# example is not the one of that text.
_TELEGRAM: Final = r"""/ISk5\2MT382-1000

1-3:0.2.8(50)
0-0:1.0.0(170102192002W)
0-0:96.1.1(4B384547303034303436333935353037)
1-0:1.8.1(000004.426*kWh)
1-0:1.8.2(000002.399*kWh)
1-0:2.8.1(000002.444*kWh)
1-0:2.8.2(000000.000*kWh)
0-0:96.14.0(0002)
1-0:1.7.0(00.244*kW)
1-0:2.7.0(00.000*kW)
0-0:96.7.21(00013)
0-0:96.7.9(00000)
1-0:99.97.0(0)(0-0:96.7.19)
1-0:32.32.0(00000)
1-0:52.32.0(00000)
1-0:72.32.0(00000)
1-0:32.36.0(00000)
1-0:52.36.0(00000)
1-0:72.36.0(00000)
0-0:96.13.0()
1-0:32.7.0(0230.0*V)
1-0:52.7.0(0230.0*V)
1-0:72.7.0(0229.0*V)
1-0:31.7.0(0.48*A)
1-0:51.7.0(0.44*A)
1-0:71.7.0(0.86*A)
1-0:21.7.0(00.070*kW)
1-0:41.7.0(00.032*kW)
1-0:61.7.0(00.142*kW)
1-0:22.7.0(00.000*kW)
1-0:42.7.0(00.000*kW)
1-0:62.7.0(00.000*kW)
0-1:24.1.0(003)
0-1:96.1.0(3232323241424344313233343536373839)
0-1:24.2.1(170102161005W)(00000.107*m3)
0-2:24.1.0(003)
0-2:96.1.0()
!6EEE
""".replace("\n", "\r\n")

# A data sheet's frame of a Plantower PMS5003: 13 numbers and their sum.
_PMS: Final = bytes.fromhex("424d001c00060009000a00060009000a04b3014b00430001000000009700") + (
    sum(bytes.fromhex("424d001c00060009000a00060009000a04b3014b00430001000000009700")).to_bytes(2, "big")
)

_GPS: Final = (
    b"$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47",
    b"$GPGSA,A,3,04,05,,09,12,,,24,,,,,2.5,1.3,2.1*39",
    b"$GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W*6A",
    b"!AIVDM,1,1,,B,177KQJ5000G?tO`K>RA1wUbN0TKH,0*5C",
)


def frames_of(settings: Any, data: bytes) -> list[bytes]:
    framer = build_framer(FramingSettings.model_validate(settings))
    frames = framer.feed(data)
    return frames + (framer.idle() if framer.gap_seconds is not None else [])


class TestCrcs:
    # From the catalogue: what each makes of b"123456789".
    @pytest.mark.parametrize(
        ("name", "check"),
        [
            ("CRC-8/SMBUS", 0xF4),
            ("CRC-8/MAXIM-DOW", 0xA1),
            ("CRC-12/UMTS", 0xDAF),
            ("CRC-15/CAN", 0x059E),
            ("CRC-16/ARC", 0xBB3D),
            ("CRC-16/MODBUS", 0x4B37),
            ("CRC-16/XMODEM", 0x31C3),
            ("CRC-16/IBM-3740", 0x29B1),
            ("CRC-16/KERMIT", 0x2189),
            ("CRC-16/IBM-SDLC", 0x906E),
            ("CRC-24/OPENPGP", 0x21CF02),
            ("CRC-32/ISO-HDLC", 0xCBF43926),
            ("CRC-32/ISCSI", 0xE3069283),
            ("CRC-64/XZ", 0x995DC9BBDF1939FA),
        ],
    )
    def test_the_check_values_of_the_catalogue(self, name: str, check: int) -> None:
        assert crc_model(name).compute(b"123456789") == check

    def test_there_are_all_names_of_up_to_64_bits(self) -> None:
        names = catalogue()
        assert len(names) >= 112
        assert [catalogue_name(name) for name in names] == names

    @pytest.mark.parametrize(
        ("written", "name"),
        [
            ("modbus", "CRC-16/MODBUS"),
            ("crc16_modbus", "CRC-16/MODBUS"),
            ("CRC-16/CCITT-FALSE", "CRC-16/IBM-3740"),
            ("X-25", "CRC-16/IBM-SDLC"),
            ("CRC-32", "CRC-32/ISO-HDLC"),
        ],
    )
    def test_aliases_and_other_ways_to_write_a_name_are_taken(self, written: str, name: str) -> None:
        assert catalogue_name(written) == name

    def test_an_unknown_name_is_refused_with_the_nearest_ones(self) -> None:
        with pytest.raises(ValueError, match="did you mean CRC-16/MODBUS or"):
            catalogue_name("CRC-16/MODBUSS")
        with pytest.raises(ValueError, match="as CRC-16/MODBUS or CRC-32/ISO-HDLC"):
            catalogue_name("?")

    @pytest.mark.parametrize(("name", "size"), [("CRC-8/SMBUS", 1), ("CRC-15/CAN", 2), ("CRC-24/BLE", 3)])
    def test_a_crc_takes_whole_bytes(self, name: str, size: int) -> None:
        assert crc_model(name).size == size


class TestSums:
    @pytest.mark.parametrize("data", [b"", b"\x5a", b"\x01\x02", b"\x01\x02\x04", bytes(range(1, 100))])
    def test_the_exclusive_or_is_that_of_all_bytes(self, data: bytes) -> None:
        expected = 0
        for byte in data:
            expected ^= byte
        assert xor_of(data) == expected

    def test_sums_wrap_and_have_complements(self) -> None:
        data = b"\xff\xff\x03"
        assert sum_of(1, "none")(data) == 0x01
        assert sum_of(2, "none")(data) == 0x0201
        assert sum_of(1, "ones")(data) == 0xFE
        assert sum_of(1, "twos")(data) == 0xFF
        assert sum_of(4, "twos")(data) == 2**32 - 0x201


class TestNmea:
    def test_real_sentences_are_cut_off_their_checksums(self) -> None:
        frames = frames_of("nmea", b"\r\n".join(_GPS) + b"\r\n")
        assert frames == [sentence[:-3] for sentence in _GPS]

    def test_a_wrong_checksum_is_counted_and_the_next_sentence_found(self) -> None:
        framer = build_framer(FramingSettings.model_validate("nmea"))
        assert framer.feed(_GPS[0].replace(b"545", b"546") + b"\r\n" + _GPS[1] + b"\r\n") == [_GPS[1][:-3]]
        assert (framer.bad_checks, framer.resyncs, framer.overlong) == (1, 1, 0)

    def test_a_sentence_that_lost_its_line_end_is_found_and_the_next_one_too(self) -> None:
        assert frames_of("nmea", _GPS[0] + _GPS[1]) == [_GPS[0][:-3], _GPS[1][:-3]]


class TestDsmr:
    def test_a_telegram_goes_from_the_slash_to_its_last_line(self) -> None:
        text = _TELEGRAM.encode()
        assert frames_of("dsmr", text + text) == [text[: text.index(b"!")]] * 2

    def test_a_digit_that_changed_is_noticed(self) -> None:
        framer = build_framer(FramingSettings.model_validate("dsmr"))
        assert framer.feed(_TELEGRAM.replace("00.244", "00.245").encode()) == []
        assert framer.bad_checks == 1

    def test_dsmr_2_and_3_have_no_crc(self) -> None:
        telegram = b"/ISk5\\2MT382-1004\r\n\r\n1-0:1.8.1(00001.001*kWh)\r\n!\r\n"
        assert frames_of({"dsmr": {"crc": False}}, telegram * 2) == [telegram[:-3]] * 2


class TestBinary:
    def test_a_particulate_sensor(self) -> None:
        settings = {
            "sync": {"word": "42 4d", "length": {"offset": 2, "bytes": 2}, "max_bytes": 32},
            "check": {"sum": {"bytes": 2}},
        }
        assert len(_PMS) == 32
        assert frames_of(settings, b"\x42" + _PMS + _PMS) == [_PMS[:-2]] * 2

    # From the Modbus specification's examples, with their CRCs.
    @pytest.mark.parametrize(
        "frame", ["01 03 00 00 00 0a c5 cd", "11 03 00 6b 00 03 76 87", "01 04 02 ff ff b8 80"]
    )
    def test_modbus_rtu(self, frame: str) -> None:
        wire = bytes.fromhex(frame)
        settings = {"idle": {"gap_seconds": 0.02}, "check": {"crc": "CRC-16/MODBUS"}}
        assert frames_of(settings, wire) == [wire[:-2]]

    # RFC 1055's special characters.
    def test_slip(self) -> None:
        assert frames_of("slip", b"\xc0a\xdb\xdcb\xdb\xddc\xc0") == [b"a\xc0b\xdbc"]
        assert frames_of("slip", b"\xc0a\xdbb\xc0ok\xc0") == [b"ok"]

    # The examples of Cheshire and Baker (and of Wikipedia, which adds the delimiter).
    @pytest.mark.parametrize(
        ("wire", "payload"),
        [
            ("01 01 00", "00"),
            ("01 01 01 00", "00 00"),
            ("01 02 11 01 00", "00 11 00"),
            ("03 11 22 02 33 00", "11 22 00 33"),
            ("05 11 22 33 44 00", "11 22 33 44"),
            ("02 11 01 01 01 00", "11 00 00 00"),
            ("02 45 01 04 2c 4c 79 01 05 40 06 4f 37 00", "45 00 00 2c 4c 79 00 00 40 06 4f 37"),
        ],
    )
    def test_cobs(self, wire: str, payload: str) -> None:
        assert frames_of("cobs", bytes.fromhex(wire)) == [bytes.fromhex(payload)]

    @pytest.mark.parametrize("size", [253, 254, 255, 508, 509])
    def test_cobs_blocks_of_254_bytes(self, size: int) -> None:
        data = bytes(byte % 255 + 1 for byte in range(size))
        blocks = [data[place : place + 254] for place in range(0, size, 254)]
        wire = b"".join(bytes([len(block) + 1]) + block for block in blocks)
        assert frames_of("cobs", wire + b"\0") == [data]

    def test_hdlc_with_its_own_crc(self) -> None:
        content = b"\x01\x7e\x7d\x02"
        crc = crc_model("CRC-16/IBM-SDLC").compute(content).to_bytes(2, "little")
        escaped = (content + crc).replace(b"\x7d", b"\x7d\x5d").replace(b"\x7e", b"\x7d\x5e")
        settings = {
            "delimited": {"start": "", "stop": "7e", "escape": "7d", "xor": "20"},
            "check": {"crc": "CRC-16/IBM-SDLC"},
        }
        assert frames_of(settings, b"\x7e" + escaped + b"\x7e") == [content]

    def test_a_check_at_the_start_and_one_in_hex(self) -> None:
        first = {"line": {}, "check": {"sum": {}, "place": "start"}}
        assert frames_of(first, bytes([sum(b"abc") & 255]) + b"abc\n") == [b"abc"]
        digits = {"line": {}, "check": {"xor": {}, "written": "hex"}}
        assert frames_of(digits, b"abc60\nabc61\nabc6 \n") == [b"abc"]

    def test_a_check_may_leave_out_the_first_bytes_and_have_another_order(self) -> None:
        settings = {
            "sync": {"word": "aa 55", "bytes": 6},
            "check": {"crc": "CRC-16/MODBUS", "skip": 2, "order": "big"},
        }
        crc = crc_model("CRC-16/MODBUS").compute(b"\x01\x02").to_bytes(2, "big")
        assert frames_of(settings, b"\xaa\x55\x01\x02" + crc) == [b"\xaa\x55\x01\x02"]


class TestSilence:
    def test_a_frame_inside_of_what_a_wrong_length_announced_is_found_after_a_silence(self) -> None:
        settings = {
            "sync": {"word": "42 4d", "length": {"offset": 2, "bytes": 2}, "max_bytes": 64},
            "check": {"sum": {"bytes": 2}},
        }
        framer = build_framer(FramingSettings.model_validate(settings))
        assert framer.feed(b"\x42\x4d\x00\x30" + _PMS) == []
        assert framer.idle() == [_PMS[:-2]]
        assert framer.buffered_bytes == 0

    def test_without_a_check_a_silence_is_what_shows_a_beginning(self) -> None:
        framer = build_framer(FramingSettings.model_validate({"fixed": {"bytes": 4}}))
        framer.reset(discard_to_boundary=True)
        assert framer.feed(b"tail") == []
        assert framer.idle() == []
        assert framer.feed(b"1234" + b"56") == [b"1234"]
        assert framer.idle() == []
        assert framer.resyncs == 1
        assert framer.feed(b"abcd") == [b"abcd"]

    def test_what_is_too_long_is_discarded_up_to_the_silence(self) -> None:
        framer = build_framer(FramingSettings.model_validate({"idle": {"gap_seconds": 1, "max_bytes": 4}}))
        assert framer.feed(b"12345") == framer.feed(b"678") == framer.idle() == []
        assert framer.overlong == 1
        framer.feed(b"1234")
        assert framer.idle() == [b"1234"]
