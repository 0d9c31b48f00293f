"""The results as text for people (tables and bars) and as lines that a script can read (RATIO, MEMORY, SKIPPED)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .results import Results

COLUMNS = (
    ("µs/request", "request_cpu_us", "{:,.1f}"),
    ("µs/token", "token_cpu_us", "{:,.1f}"),
    ("instr/request", "request_instructions", "{:,.0f}"),
    ("instr/token", "token_instructions", "{:,.0f}"),
    ("req/s/core", "requests_per_core", "{:,.0f}"),
    ("conns/request", "connections_per_request", "{:.2f}"),
    ("first +ms p50", "first_added_p50_ms", "{:.2f}"),
    ("first +ms p95", "first_added_p95_ms", "{:.2f}"),
    ("idle RSS", "idle_rss_mib", "{:.0f}"),
    ("idle PSS", "idle_pss_mib", "{:.0f}"),
    ("loaded RSS", "loaded_rss_mib", "{:.0f}"),
    ("loaded PSS", "loaded_pss_mib", "{:.0f}"),
)
COLD_COLUMNS = (("wall ms", "cold_wall_ms", "{:,.0f}"), ("CPU ms", "cold_cpu_ms", "{:,.0f}"))
WAKE_COLUMNS = (("seconds", "model_seconds", "{:.1f}"),)
ATTACK_COLUMNS = (("ms p50", "attacked_p50_ms", "{:.2f}"), ("ms p95", "attacked_p95_ms", "{:.2f}"))
CHANGE_COLUMNS = (
    ("CPU ms", "limit_change_cpu_ms", "{:,.1f}"),
    ("slowest ms", "limit_change_slowest_ms", "{:,.1f}"),
    ("questions", "limit_change_questions", "{:,.0f}"),
)
TRANSFER_COLUMNS = (
    ("upload B/s", "upload_bytes_per_s", "{:,.0f}"),
    ("download B/s", "download_bytes_per_s", "{:,.0f}"),
    ("peak MiB", "peak_mib", "{:,.0f}"),
)
FETCH_COLUMNS = (
    ("far B/s", "model_fetch_slow_bytes_per_s", "{:,.0f}"),
    ("loopback B/s", "model_fetch_fast_bytes_per_s", "{:,.0f}"),
)
VECTOR_COLUMNS = (("chunks/s", "chunks_per_s", "{:,.0f}"), ("search ms", "search_ms", "{:,.1f}"))
SEARCH_COLUMNS = (("recall@5", "recall_at_5", "{:.3f}"), ("nDCG@10", "ndcg_at_10", "{:.3f}"))
TRAINING_COLUMNS = (("steps/CPU s", "steps_per_s", "{:.3f}"), ("seconds", "job_seconds", "{:,.1f}"))
BAR = 48

GATEWAY, ENVOY, FILTERS, LITELLM = "gateway", "envoy", "envoy filters", "litellm"
CHAT, BARE, FRAMEWORK = "chat_completions", "bare uvicorn", "bare FastAPI"
LIMITS = "auth and limits"
FILES, BARE_FILES, DURABLE_FILES = "files", "bare ASGI", "durable bare ASGI"
STORES, BARE_MILVUS = "vector stores", "bare pymilvus"
WAKE, PLAIN = "wake", "plain start"
JOB, BARE_TRL = "fine-tuning job", "bare TRL"
QUIET = "quiet"
RATIOS = (
    ("gateway_cpu_per_request_vs_envoy", "request_cpu_us", GATEWAY, ENVOY),
    ("gateway_cpu_per_request_vs_envoy_with_filters", "request_cpu_us", GATEWAY, FILTERS),
    ("gateway_cpu_per_token_vs_envoy", "token_cpu_us", GATEWAY, ENVOY),
    ("gateway_cpu_per_request_vs_nginx", "request_cpu_us", GATEWAY, "nginx"),
    ("gateway_cpu_per_token_vs_nginx", "token_cpu_us", GATEWAY, "nginx"),
    ("litellm_cpu_per_request_vs_gateway", "request_cpu_us", LITELLM, GATEWAY),
    ("litellm_cpu_per_token_vs_gateway", "token_cpu_us", LITELLM, GATEWAY),
    ("auth_and_limits_cpu_per_request", "request_cpu_us", LIMITS, GATEWAY),
    ("cold_start_chat_vs_bare_uvicorn", "cold_cpu_ms", CHAT, BARE),
    ("cold_start_chat_wall_vs_bare_uvicorn", "cold_wall_ms", CHAT, BARE),
    ("cold_start_files_vs_bare_fastapi", "cold_cpu_ms", FILES, FRAMEWORK),
    ("cold_start_uploads_vs_bare_fastapi", "cold_cpu_ms", "uploads", FRAMEWORK),
    ("cold_start_vector_stores_vs_bare_fastapi", "cold_cpu_ms", "vector_stores", FRAMEWORK),
    ("upload_vs_bare_asgi", "upload_bytes_per_s", FILES, BARE_FILES),
    ("upload_vs_durable_bare_asgi", "upload_bytes_per_s", FILES, DURABLE_FILES),
    ("download_vs_bare_asgi", "download_bytes_per_s", FILES, BARE_FILES),
    ("ingest_chunks_per_second_vs_bare_pymilvus", "chunks_per_s", STORES, BARE_MILVUS),
    ("search_100k_vs_bare_pymilvus", "search_ms", STORES, BARE_MILVUS),
    ("request_during_one_byte_chunks_vs_quiet", "attacked_p50_ms", "chunks", QUIET),
    ("request_during_unread_streams_vs_quiet", "attacked_p50_ms", "readers", QUIET),
    ("request_during_withheld_bodies_vs_quiet", "attacked_p50_ms", "bodies", QUIET),
    ("request_during_nested_bodies_vs_quiet", "attacked_p50_ms", "brackets", QUIET),
    ("job_steps_per_second_vs_bare_trl", "steps_per_s", JOB, BARE_TRL),
    ("job_steps_per_wall_second_vs_bare_trl", "steps_per_wall_s", JOB, BARE_TRL),
    ("resume_overhead_vs_uninterrupted", "job_seconds", "killed job", "whole job"),
    ("model_wake_vs_engine_start", "model_seconds", WAKE, PLAIN),
    ("model_fetch_vs_curl", "model_fetch_slow_bytes_per_s", "fetch", "curl"),
    ("model_fetch_vs_curl_on_loopback", "model_fetch_fast_bytes_per_s", "fetch", "curl"),
    ("model_fetch_vs_curl_and_sha256sum_on_loopback", "model_fetch_fast_bytes_per_s", "fetch", "curl and sha256sum"),
)


def table(results: Results, columns: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    """One row per subject with medians; a dash for a missing figure; nothing if there is no figure."""
    subjects = results.subjects(*(measure for _, measure, _ in columns))
    if not subjects:
        return
    width = max(len(subject) for subject in subjects)
    yield " ".join([" " * width, *(f"{title:>13}" for title, _, _ in columns)])
    for subject in subjects:
        cells = []
        for _, measure, form in columns:
            value = results.median(measure, subject)
            cells.append(f"{'-' if value is None else form.format(value):>13}")
        yield " ".join([f"{subject:{width}}", *cells])


def bars(results: Results, title: str, measure: str) -> Iterator[str]:
    """Bars of the medians; one that would burst the width is cut and says so."""
    medians = {subject: results.median(measure, subject) or 0 for subject in results.subjects(measure)}
    if not medians:
        return
    yield title
    longest = 4 * sorted(medians.values())[len(medians) // 2]
    for subject, value in sorted(medians.items(), key=lambda item: item[1]):
        length = max(1, round(BAR * min(value, longest) / longest))
        yield f"  {subject:18} {'█' * length}{' …' if value > longest else ''} {value:,.1f}"


def lines(results: Results) -> Iterator[str]:
    """What scripts read, one fact a line."""
    for name, measure, above, below in RATIOS:
        value = results.ratio(measure, above, below)
        if value is not None:
            yield f"RATIO {name} {value:.3f}"
    cold = {subject: results.median("cold_cpu_ms", subject) or 0 for subject in results.subjects("cold_cpu_ms")}
    if FRAMEWORK in cold:
        slowest = max(cold, key=cold.__getitem__)
        yield f"RATIO cold_start_slowest_vs_bare_fastapi {cold[slowest] / cold[FRAMEWORK]:.3f} ({slowest})"
    single = max(results.median("recall_at_5", half) or 0 for half in ("dense", "BM25"))
    if single:
        hybrid = results.median("recall_at_5", "hybrid") or 0
        yield f"RATIO hybrid_recall_at_5_vs_best_single {hybrid / single:.3f}"
    for kind in ("rss", "pss"):
        value = results.median(f"idle_{kind}_mib", GATEWAY)
        if value is not None:
            yield f"MEMORY chat_function_idle_{kind}_mib {value:.1f}"
    if (value := results.median("peak_mib", "uploads, 4 GiB in parts")) is not None:
        yield f"MEMORY upload_of_4_gib_peak_mib {value:.1f}"
    for subject, reason in results.skipped.items():
        yield f"SKIPPED {subject}: {reason}"


def render(results: Results) -> str:
    """The whole report; parts without a figure are left out."""
    parts = [
        list(table(results, COLUMNS)),
        list(bars(results, "CPU µs per request", "request_cpu_us")),
        list(bars(results, "CPU µs per streamed token", "token_cpu_us")),
        list(table(results, COLD_COLUMNS)),
        list(bars(results, "Cold start, CPU ms to the first answer", "cold_cpu_ms")),
        list(table(results, WAKE_COLUMNS)),
        list(table(results, ATTACK_COLUMNS)),
        list(table(results, CHANGE_COLUMNS)),
        list(table(results, TRANSFER_COLUMNS)),
        list(table(results, VECTOR_COLUMNS)),
        list(table(results, SEARCH_COLUMNS)),
        list(table(results, TRAINING_COLUMNS)),
        list(lines(results)),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)
