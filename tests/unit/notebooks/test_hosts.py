"""The URL at which browsers open notebooks, as an operator writes it."""

from __future__ import annotations

import pytest

from llmariner.errors import PermissionDenied, Unavailable
from llmariner.notebook_settings import NotebookSettings
from llmariner.notebooks.hosts import NotebookHosts


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("", ""),
        ("https://*.notebooks.example.org", "https://*.notebooks.example.org"),
        ("https://*.Notebooks.Example.org/", "https://*.notebooks.example.org"),
        ("http://*.nb.internal:8080", "http://*.nb.internal:8080"),
        ("https://*.4you.3com.example:65535", "https://*.4you.3com.example:65535"),
    ],
)
def test_a_url_has_a_wildcard_for_the_notebook(value: str, url: str) -> None:
    assert NotebookSettings.load({"LLMARINER_NOTEBOOK_URL": value}).url == url


@pytest.mark.parametrize(
    "value",
    [
        *("https://notebooks.example.org", "*.notebooks.example.org", "ftp://*.example.org", "https://*.org"),
        *("https://*.example.org/lab", "https://*.example.org?x=1", "https://*.example.org#x", "https://*.*.org"),
        *("https://me@*.example.org", "https://*.example.org:0", "https://*.example.org:x", "https://*example.org"),
        *("https://*.example.org:65536", "https://*.example.org:99999", "https://*.10.0.0.1", "https://*.1.2"),
        *("https://*.example.0x7f", "https://*.[::1]", "https://*.example.org:8080:1", "https://*.10.0.0.1:443"),
        *("https://*.exa mple.org", "https://*.-x.org", f"https://*.{'a.' * 200}org", "https://*.", "https://a.*.org"),
    ],
)
def test_another_url_is_refused_with_the_name_of_the_setting(value: str) -> None:
    with pytest.raises(ValueError, match="LLMARINER_NOTEBOOK_URL must be a URL such as"):
        NotebookSettings.load({"LLMARINER_NOTEBOOK_URL": value})


def test_a_notebook_has_a_url_of_its_own() -> None:
    assert NotebookHosts("https://*.nb.example.org", rewritten=True).url_of("nb-1") == "https://nb-1.nb.example.org"
    assert NotebookHosts().url_of("nb-1") is None


def test_a_cluster_without_the_setting_names_it() -> None:
    with pytest.raises(Unavailable, match="LLMARINER_NOTEBOOK_URL"):
        NotebookHosts(rewritten=True).url_of("nb-1")
    with pytest.raises(Unavailable, match="LLMARINER_NOTEBOOK_URL"):
        NotebookHosts(rewritten=True).check({"host": "nb-1.localhost", "x-forwarded-host": "nb-1.localhost"}, "nb-1")


@pytest.mark.parametrize("said", ["nb-1.nb.example.org", "NB-1.nb.example.org", "nb-1.nb.example.org:8443"])
def test_the_gateways_word_for_the_host_counts_alone(said: str) -> None:
    hosts = NotebookHosts("https://*.nb.example.org", rewritten=True)
    hosts.check({"host": "services-notebooks.llmariner.svc.cluster.local", "x-forwarded-host": said}, "nb-1")
    with pytest.raises(PermissionDenied):
        hosts.check({"host": said}, "nb-1")
    direct = NotebookHosts("https://*.nb.example.org")
    with pytest.raises(PermissionDenied):
        direct.check({"host": "localhost", "x-forwarded-host": said}, "nb-1")


@pytest.mark.parametrize(
    "said",
    [
        *("nb-2.nb.example.org", "nb.example.org", "nb-1.example.org", "nb-1.nb.example.org.attacker.example", ""),
        *("%REQ(:AUTHORITY)%", "nb-1.nb.example.org, nb-2.nb.example.org", "nb-2.nb.example.org,nb-1.nb.example.org"),
        *("x.nb-1.nb.example.org", "nb-1", "nb-1.nb.example.org."),
    ],
)
def test_no_other_host_opens_a_notebook(said: str) -> None:
    with pytest.raises(PermissionDenied, match=r"such as nb-1\.nb\.example\.org"):
        NotebookHosts("https://*.nb.example.org", rewritten=True).check({"x-forwarded-host": said}, "nb-1")
