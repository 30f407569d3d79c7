"""Message classes of other projects' formats, built at run time from the field numbers that their .proto files state.

An independent reader for what our writers write: the parser is protobuf's own.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Field = descriptor_pb2.FieldDescriptorProto

PERFETTO = {
    "Trace": {"packet": (1, "*TracePacket")},
    "TracePacket": {
        "clock_snapshot": (6, "ClockSnapshot"),
        "timestamp": (8, "uint64"),
        "sequence": (10, "uint32"),
        "track_event": (11, "TrackEvent"),
        "interned_data": (12, "InternedData"),
        "sequence_flags": (13, "uint32"),
        "timestamp_clock_id": (58, "uint32"),
        "trace_packet_defaults": (59, "Defaults"),
        "track_descriptor": (60, "TrackDescriptor"),
        "perf_sample": (66, "PerfSample"),
        "first_packet_on_sequence": (87, "bool"),
    },
    "Clock": {"clock_id": (1, "uint32"), "timestamp": (2, "uint64")},
    "ClockSnapshot": {"clocks": (1, "*Clock"), "primary_trace_clock": (2, "uint32")},
    "Timebase": {"frequency": (2, "uint64"), "counter": (4, "uint32"), "clock": (11, "uint32")},
    "PerfSampleDefaults": {"timebase": (1, "Timebase")},
    "Defaults": {
        "perf_sample_defaults": (12, "PerfSampleDefaults"),
        "timestamp_clock_id": (58, "uint32"),
    },
    "DebugAnnotation": {"name_iid": (1, "uint64"), "int_value": (4, "int64")},
    "TrackEvent": {
        "debug_annotations": (4, "*DebugAnnotation"),
        "type": (9, "uint32"),
        "name_iid": (10, "uint64"),
        "track_uuid": (11, "uint64"),
    },
    "Name": {"iid": (1, "uint64"), "name": (2, "string")},
    "InternedString": {"iid": (1, "uint64"), "str": (2, "bytes")},
    "Mapping": {"iid": (1, "uint64"), "path_string_ids": (7, "*uint64")},
    "Frame": {
        "iid": (1, "uint64"),
        "function_name_id": (2, "uint64"),
        "mapping_id": (3, "uint64"),
        "rel_pc": (4, "uint64"),
    },
    "Callstack": {"iid": (1, "uint64"), "frame_ids": (2, "*uint64")},
    "InternedData": {
        "event_names": (2, "*Name"),
        "debug_annotation_names": (3, "*Name"),
        "function_names": (5, "*InternedString"),
        "frames": (6, "*Frame"),
        "callstacks": (7, "*Callstack"),
        "mapping_paths": (17, "*InternedString"),
        "mappings": (19, "*Mapping"),
    },
    "Process": {"pid": (1, "int32"), "cmdline": (2, "*string"), "process_name": (6, "string")},
    "Thread": {"pid": (1, "int32"), "tid": (2, "int32"), "thread_name": (5, "string")},
    "TrackDescriptor": {
        "uuid": (1, "uint64"),
        "name": (2, "string"),
        "process": (3, "Process"),
        "thread": (4, "Thread"),
        "parent_uuid": (5, "uint64"),
    },
    "PerfSample": {
        "cpu": (1, "uint32"),
        "pid": (2, "uint32"),
        "tid": (3, "uint32"),
        "callstack_iid": (4, "uint64"),
        "cpu_mode": (5, "uint32"),
    },
}

PPROF = {
    "Profile": {
        "sample_type": (1, "*ValueType"),
        "sample": (2, "*Sample"),
        "mapping": (3, "*Mapping"),
        "location": (4, "*Location"),
        "function": (5, "*Function"),
        "string_table": (6, "*string"),
        "time_nanos": (9, "int64"),
        "duration_nanos": (10, "int64"),
        "period_type": (11, "ValueType"),
        "period": (12, "int64"),
        "comment": (13, "*int64"),
        "default_sample_type": (14, "int64"),
    },
    "ValueType": {"type": (1, "int64"), "unit": (2, "int64")},
    "Sample": {
        "location_id": (1, "*uint64"),
        "value": (2, "*int64"),
        "label": (3, "*Label"),
    },
    "Label": {"key": (1, "int64"), "str": (2, "int64"), "num": (3, "int64")},
    "Mapping": {
        "id": (1, "uint64"),
        "memory_start": (2, "uint64"),
        "memory_limit": (3, "uint64"),
        "file_offset": (4, "uint64"),
        "filename": (5, "int64"),
        "build_id": (6, "int64"),
        "has_functions": (7, "bool"),
        "has_filenames": (8, "bool"),
        "has_line_numbers": (9, "bool"),
        "has_inline_frames": (10, "bool"),
    },
    "Location": {
        "id": (1, "uint64"),
        "mapping_id": (2, "uint64"),
        "address": (3, "uint64"),
        "line": (4, "*Line"),
    },
    "Line": {"function_id": (1, "uint64"), "line": (2, "int64")},
    "Function": {
        "id": (1, "uint64"),
        "name": (2, "int64"),
        "system_name": (3, "int64"),
        "filename": (4, "int64"),
    },
}


def message_class(package: str, messages: dict[str, dict[str, tuple[int, str]]], root: str) -> Any:
    """The class of message `root`; a leading ``*`` marks a repeated field."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package)
    for name, fields in messages.items():
        one = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            entry = one.field.add(name=field, number=number)
            entry.label = Field.LABEL_REPEATED if kind.startswith("*") else Field.LABEL_OPTIONAL
            kind = kind.lstrip("*")
            if kind in messages:
                entry.type, entry.type_name = Field.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                entry.type = getattr(Field, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{root}"))
