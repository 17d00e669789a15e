"""search: from prompts to a list of URLs, with everything that can stop it in between."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cyclopts
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import killing
from clipdistill.collect.search import search
from clipdistill.collect.sources.journal import journal_path
from clipdistill.collect.sources.options import SearchOptions
from clipdistill.core.errors import InputError, MismatchError, OutputError, ServiceError
from clipdistill.core.results import to_json
from clipdistill.formats.urls import UrlRow, read_urls, save_urls
from fake_services import FakeService, Reply, fake_commons, fake_knn, fake_openverse, knn_items

PROMPTS = ["a red disc", "a green square", "a blue triangle"]
SCRIPT = Path(__file__).parents[2] / "scripts" / "search_clip_images.py"


@pytest.fixture
def knn() -> Iterator[FakeService]:
    with fake_knn().running() as one:
        yield one


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("# shapes\n" + "".join(f"{prompt}\n" for prompt in PROMPTS))
    return path


@pytest.fixture
def urls(tmp_path: Path) -> Path:
    return tmp_path / "data" / "image_urls.txt"


def options(fake: FakeService | None = None, **changed: object) -> SearchOptions:
    quick = {"source": "knn", "num_images": 5, "timeout": 2.0, "retries": 1, "backoff": 0.01}
    if fake is not None:
        quick["url"] = fake.url
    return SearchOptions(**{**quick, **changed})


def asked_for(fake: FakeService) -> list[str]:
    return [one.body["text"] for one in fake.asked if one.body]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def text_of(result) -> str:
    return "\n".join(map(str, result.summary()))


def test_the_list_and_where_each_came_from(knn, prompts, urls):
    result = search(prompts, urls, options(knn))
    assert (result.added, result.kept, result.resumed) == (15, 0, 0)
    expected = [knn_items(prompt, 5)[place]["url"] for place in range(5) for prompt in PROMPTS]
    assert lines(urls) == expected  # the best of every prompt first
    rows = list(read_urls(urls.with_suffix(".parquet")))
    assert [row.url for row in rows] == expected
    assert rows[4] == UrlRow(expected[4], "a green square", 2, 0.39, "knn", "a green square 1")
    assert sorted(asked_for(knn)) == sorted(PROMPTS)
    assert all(one.body["num_images"] == 200 for one in knn.asked if one.body)
    assert all(one.body["num_result_ids"] == 3000 for one in knn.asked if one.body)
    assert not journal_path(urls).exists()
    assert {path.name for path in urls.parent.iterdir()} == {"image_urls.txt", "image_urls.parquet"}
    assert "15 URLs for 3 prompts" in text_of(result)
    assert to_json(result)["prompts"][0] == {
        "prompt": "a red disc",
        "found": 100,
        "without_url": 0,
        "chosen": 5,
    }


def test_prompts_of_one_label_are_each_a_query(knn, tmp_path, urls):
    (tmp_path / "p.txt").write_text("dog\ta dog\ndog\ta puppy\ncat\ta dog\n")
    search(tmp_path / "p.txt", urls, options(knn, max_workers=1))
    assert asked_for(knn) == ["a dog", "a puppy"]


def test_what_several_prompts_find_is_shared(prompts, urls):
    def same(prompt):
        items = knn_items("same", 10)
        return [{**one, "similarity": one["similarity"] + len(prompt) / 1000} for one in items]

    with fake_knn(same).running() as fake:
        result = search(prompts, urls, options(fake))
    assert len(set(lines(urls))) == len(lines(urls)) == 10
    chosen = {one.prompt: one.chosen for one in result.prompts}
    # The longest prompt has the best score at every rank, until it has its five.
    assert chosen == {"a blue triangle": 5, "a green square": 5, "a red disc": 0}
    assert "Fewer than 5 different URLs for" in text_of(result)


def test_nothing_found_and_no_urls_are_in_the_summary(prompts, urls):
    def some(prompt):
        items = knn_items(prompt, 3)
        if "green" in prompt:
            return []
        del items[0]["url"]
        return items

    with fake_knn(some).running() as fake:
        result = search(prompts, urls, options(fake))
    said = text_of(result)
    assert "Found nothing for:\n  a green square" in said
    assert "no URL can be downloaded: 2 hits." in said
    assert "a red disc: 2 (3 found, 1 without a URL)" in said


def test_an_existing_list_is_an_error_before_any_query(knn, prompts, urls):
    save_urls(urls, [UrlRow("http://mine/1")])
    for gone in (None, urls.with_suffix(".parquet"), urls):
        if gone:
            save_urls(urls, [UrlRow("http://mine/1")])
            gone.unlink()
        with pytest.raises(OutputError, match=r"exists. Add to it with --append"):
            search(prompts, urls, options(knn))
    assert knn.asked == []


def test_append_keeps_what_is_there_and_repeats_nothing(knn, prompts, urls):
    urls.parent.mkdir()
    again = knn_items(PROMPTS[0], 1)[0]["url"]
    urls.write_text(f"http://mine/a,b c\n{again}\n\nhttp://mine/a,b c\n")  # by hand
    result = search(prompts, urls, options(knn, append=True))
    assert lines(urls)[:2] == ["http://mine/a,b c", again]
    assert (result.kept, result.added) == (2, 15)
    assert len(set(lines(urls))) == len(lines(urls)) == 17
    more = search(prompts, urls, options(knn, append=True))
    assert more.added == 15  # the next five of each prompt
    assert len(set(lines(urls))) == len(lines(urls)) == 32
    rows = list(read_urls(urls.with_suffix(".parquet")))
    assert [row.url for row in rows] == lines(urls)
    assert rows[2].prompt == "a red disc"


def test_append_to_nothing_is_a_new_list(knn, prompts, urls):
    assert search(prompts, urls, options(knn, append=True)).added == 15


def test_a_failing_service_is_an_error_and_the_same_command_resumes(prompts, urls, tmp_path):
    with fake_knn().running() as fake:
        whole = tmp_path / "whole.txt"
        search(prompts, whole, options(fake))
        fake.asked.clear()
        answer, broken = fake.answer, True

        def sometimes(asked):
            fails = broken and asked.body and asked.body["text"] == "a green square"
            return Reply({"message": "out of memory"}, 500) if fails else answer(asked)

        fake.answer = sometimes
        with pytest.raises(ServiceError, match=r"answered 500 .*out of memory, 2 times in a row"):
            search(prompts, urls, options(fake, max_workers=1))
        assert not urls.exists()
        assert journal_path(urls).exists()
        broken = False
        fake.asked.clear()
        result = search(prompts, urls, options(fake, max_workers=1))
        assert asked_for(fake) == ["a green square", "a blue triangle"]
        assert result.resumed == 1
        assert "1 of them by an interrupted run" in text_of(result)
        assert urls.read_text() == whole.read_text()
        assert not journal_path(urls).exists()


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(body=b"<html><title>hi</title>", headers={"Content-Type": "text/html"}), "HTML"),
        (Reply(body=b""), "an empty body"),
        (Reply([{"id": 1, "similarity": float("nan"), "url": "http://x"}]), "similarity nan"),
        (Reply({"message": "expected 512 numbers; found 16"}, 400), "512 numbers; found 16"),
        (Reply([], drip=5), "sent nothing for 0.2 s"),
    ],
)
def test_no_bad_answer_becomes_an_empty_list(prompts, urls, reply, said):
    with fake_knn().running() as fake:
        answer = fake.answer
        fake.answer = lambda asked: reply if asked.body else answer(asked)
        with pytest.raises(ServiceError, match=said):
            search(prompts, urls, options(fake, timeout=0.2, max_workers=3))
    assert not urls.exists()
    assert not urls.with_suffix(".parquet").exists()


def test_what_others_had_found_when_one_failed_is_kept(prompts, urls):
    with fake_knn().running() as fake:
        answer = fake.answer

        def slowly(asked):
            if asked.body and asked.body["text"] == "a red disc":
                return Reply({"message": "no"}, 400)
            if asked.body:
                time.sleep(0.2)
            return answer(asked)

        fake.answer = slowly
        with pytest.raises(ServiceError, match="400"):
            search(prompts, urls, options(fake, max_workers=3, query="text"))
        kept = journal_path(urls).read_text()
    assert '"prompt": "a green square"' in kept or '"prompt": "a blue triangle"' in kept
    assert '"prompt": "a red disc"' not in kept


def test_other_settings_begin_anew(knn, prompts, urls, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr("clipdistill.collect.sources.journal.message", said.append)
    half = options(knn, max_workers=1)
    knn.first = [Reply(["laion5B-L-14"]), Reply(knn_items(PROMPTS[0], 9)), Reply(None, 400)]
    with pytest.raises(ServiceError):
        search(prompts, urls, half)
    knn.asked.clear()
    search(prompts, urls, options(knn, max_workers=1, deduplicate=False))
    assert asked_for(knn) == PROMPTS
    assert said == [
        "The interrupted search was another one (deduplicate was True, is False); beginning anew."
    ]


def test_other_prompts_ask_only_for_what_is_new(knn, prompts, urls):
    knn.first = [Reply(["laion5B-L-14"]), Reply(knn_items(PROMPTS[0], 9)), Reply(None, 400)]
    with pytest.raises(ServiceError):
        search(prompts, urls, options(knn, max_workers=1))
    knn.asked.clear()
    prompts.write_text("a dog\na red disc\n")
    search(prompts, urls, options(knn, max_workers=1))
    assert asked_for(knn) == ["a dog"]
    assert {row.prompt for row in read_urls(urls)} == {"a dog", "a red disc"}


def test_half_a_line_of_the_journal_is_forgotten(knn, prompts, urls):
    knn.first = [
        Reply(["laion5B-L-14"]),
        *[Reply(knn_items(p, 9)) for p in PROMPTS[:2]],
        Reply(None, 400),
    ]
    with pytest.raises(ServiceError):
        search(prompts, urls, options(knn, max_workers=1))
    journal = journal_path(urls)
    journal.write_bytes(journal.read_bytes()[:-20])
    knn.asked.clear()
    search(prompts, urls, options(knn, max_workers=1))
    assert asked_for(knn) == PROMPTS[1:]


def test_texts_that_utf8_cannot_hold_end_no_search(prompts, urls):
    bad = {
        "url": "http://x/\ud800.jpg",
        "caption": "\udc80\0",
        "license": "\ud83d",
        "author": "\ud800",
    }

    def results(prompt):
        items = knn_items(prompt, 10)
        return [{**items[0], **bad}, {**items[1], **bad, "url": items[1]["url"]}, *items[2:]]

    with fake_knn(results).running() as fake:
        result = search(prompts, urls, options(fake))
    assert result.added == 15
    assert [one.without_url for one in result.prompts] == [1, 1, 1]
    first = next(read_urls(urls))
    assert (first.caption, first.attribution) == ("\\udc80\0", "\\ud800")


@pytest.mark.parametrize(
    "row",
    [
        {"url": "http://x/\ud800.jpg"},
        {"url": "http://x/1.jpg", "caption": "\udc80"},
        {"url": "http://x/1.jpg", "caption": None},
        {"url": {"a": 1}},
        {"url": "http://x/1.jpg", "rank": "first"},
        ["no object"],
    ],
)
def test_a_bad_row_in_an_old_journal_ends_no_search(knn, prompts, urls, row):
    urls.parent.mkdir()
    head = {"format": "clipdistill.search", "version": 2, "settings": options(knn).identity()}
    end = {"prompt": "a red disc", "hits": 1}
    journal_path(urls).write_text("".join(f"{json.dumps(one)}\n" for one in (head, row, end)))
    result = search(prompts, urls, options(knn))
    assert result.added >= 10
    assert all(url.startswith("http") and url.isascii() for url in lines(urls))
    assert not journal_path(urls).exists()


def test_killed_between_the_two_files(knn, prompts, urls):
    knn.first = [Reply(["laion5B-L-14"]), Reply(knn_items(PROMPTS[0], 9)), Reply(None, 400)]
    with pytest.raises(ServiceError):
        search(prompts, urls, options(knn, max_workers=1))
    save_urls(urls, [])
    urls.unlink()
    assert search(prompts, urls, options(knn)).added == 15


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_search_that_was_stopped_resumes(prompts, urls, tmp_path, how):
    with fake_knn().running() as fake:
        search(prompts, tmp_path / "whole.txt", options(fake, num_result_ids=3000))
        answer, hang = fake.answer, True

        def slowly(asked):
            if hang and asked.body and asked.body["text"] == "a blue triangle":
                time.sleep(20)
            return answer(asked)

        fake.answer = slowly
        command = [
            sys.executable,
            str(SCRIPT),
            str(prompts),
            str(urls),
            "-n",
            "5",
            "--url",
            fake.url,
            "--max_workers",
            "2",
        ]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        give_up = time.monotonic() + 30
        ended = lambda: journal_path(urls).read_text().count('", "hits"')  # noqa: E731
        while not journal_path(urls).exists() or ended() < 2:
            assert time.monotonic() < give_up
            time.sleep(0.01)
        process.send_signal(how)
        stderr = process.communicate(timeout=10)[1]
        assert process.returncode == (-9 if how == signal.SIGKILL else 130)
        assert how == signal.SIGKILL or "stopped; run the same command again" in stderr
        hang = False
        fake.asked.clear()
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert asked_for(fake) == ["a blue triangle"]
    assert urls.read_text() == (tmp_path / "whole.txt").read_text()


def test_two_searches_at_one_list(knn, prompts, urls):
    ready = urls.parent.parent / "ready"
    with (
        killing.holding(urls, ready, folder=False),
        pytest.raises(OutputError, match="is writing it now"),
    ):
        search(prompts, urls, options(knn))
    assert search(prompts, urls, options(knn)).added == 15


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"source": None}, r"Give --source(.|\n)*commons(.|\n)*openverse(.|\n)*parquet"),
        ({"source": "knn"}, r"needs --url: .*gone since December 2023.*serve POOL"),
        ({"source": "pool"}, "needs --pool"),
        ({"source": "parquet"}, "needs --tables"),
        ({"num_images": 0}, "--num-images 0: expected 1"),
        ({"num_result_ids": 3}, "--num-result-ids 3: expected 0, or at least"),
        ({"max_workers": 0}, "--max-workers"),
        ({"aesthetic_score": 10}, "--aesthetic-score"),
        ({"timeout": 0}, "--timeout"),
        ({"retries": -1}, "--retries"),
        ({"url": "knn.example"}, "--url 'knn.example'"),
        ({"source": "openverse", "license": "mit"}, "--license"),
        ({"source": "openverse", "api_url": "x"}, "--api-url"),
    ],
)
def test_options_that_cannot_work(prompts, urls, changed, said):
    url = {} if changed.get("source", "") == "knn" else {"url": "http://127.0.0.1:9"}
    with pytest.raises(InputError, match=said):
        search(prompts, urls, options(**{**url, **changed}))
    assert not urls.exists()


def test_bad_files(knn, prompts, urls, tmp_path):
    with pytest.raises(InputError, match="prompts file cannot be read"):
        search(tmp_path / "none.txt", urls, options(knn))
    with pytest.raises(InputError, match=r"name the list of URLs, such as .*urls\.txt"):
        search(prompts, urls.with_suffix(".parquet"), options(knn))
    with pytest.raises(OutputError, match="should be a folder"):
        search(prompts, prompts / "urls.txt", options(knn))
    assert knn.asked == []


def test_commons(prompts, urls, monkeypatch):
    monkeypatch.delenv("CLIPDISTILL_CONTACT", raising=False)
    titles = [f"{colour} {index}" for index in range(30) for colour in ("Red disc", "Green square")]
    with fake_commons(titles).running() as fake:
        mine = options(source="commons", api_url=fake.url)
        with pytest.raises(InputError, match="--contact"):
            search(prompts, urls, mine)
        assert fake.asked == []
        assert not journal_path(urls).exists()
        monkeypatch.setenv("CLIPDISTILL_CONTACT", "me@example.org")
        result = search(prompts, urls, mine)
        assert "me@example.org" in fake.asked[0].headers["user-agent"]
    assert [one.chosen for one in result.prompts] == [5, 5, 0]
    assert "Found nothing for:\n  a blue triangle" in text_of(result)
    assert {row.license for row in read_urls(urls)} == {"CC BY-SA 4.0"}


def test_openverse(prompts, urls):
    with fake_openverse(12).running() as fake:
        mine = options(source="openverse", api_url=fake.url, license="by-sa")
        result = search(prompts, urls, mine)
    assert [one.chosen for one in result.prompts] == [5, 5, 5]
    assert next(read_urls(urls)).attribution.startswith('"red disc 0" by Bo')


def test_tables_ranked_by_the_teacher(prompts, urls, tmp_path, tiny_teacher, tiny_teacher_name):
    captions = [f"{prompt} number {index}" for index in range(9) for prompt in PROMPTS]
    table = {"URL": [f"http://x/{i}" for i in range(len(captions))], "TEXT": captions}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "t.parquet")
    mine = options(
        source="parquet",
        tables=(str(tmp_path / "*.parquet"),),
        model_name=tiny_teacher_name,
        device="cpu",
    )
    search(prompts, urls, mine)
    [first, *_] = read_urls(urls)
    mine_only = [caption for caption in captions if caption.startswith(PROMPTS[0])]
    cosines = tiny_teacher.embed_texts(mine_only) @ tiny_teacher.embed_texts([PROMPTS[0]])[0]
    assert first.caption == mine_only[int(np.argmax(cosines))]
    assert first.score == pytest.approx(float(cosines.max()), abs=1e-5)


def write_pool(root: Path, teacher, urls: list[str] | None) -> None:
    """A pool that `embed` might have written, with a column of URLs."""
    from clipdistill.formats.embeddings import EmbeddingStore, Header, Row

    store = EmbeddingStore(root, Header(teacher.card, "clip-retrieval", "float32", True))
    vectors = np.random.default_rng(0).normal(size=(60, teacher.card.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    store.append([Row(f"{index}.jpg", "", 0, 0) for index in range(60)], vectors)
    store.finish([])
    if urls:
        path = root / "metadata/metadata_0.parquet"
        table = pyarrow.parquet.read_table(path)
        table = table.append_column("url", pyarrow.array(urls))
        pyarrow.parquet.write_table(table, path)


def test_pools(prompts, urls, tmp_path, tiny_teacher, other_teacher):
    write_pool(tmp_path / "pool", tiny_teacher, [f"http://x/{index}" for index in range(60)])
    mine = options(source="pool", pool=tmp_path / "pool", device="cpu", num_result_ids=30)
    result = search(prompts, urls, mine)
    assert result.added == len(set(lines(urls))) == 15
    write_pool(tmp_path / "local", tiny_teacher, None)
    with pytest.raises(InputError, match=r"has a URL.*clipdistill select"):
        search(
            prompts,
            tmp_path / "u.txt",
            options(source="pool", pool=tmp_path / "local", device="cpu"),
        )
    wrong = options(
        source="pool",
        pool=tmp_path / "pool",
        device="cpu",
        model_name=other_teacher.card.model_name,
    )
    with pytest.raises(MismatchError, match="not in the same embedding space"):
        search(prompts, tmp_path / "u.txt", wrong)


def test_knn_by_the_teachers_embedding(prompts, urls, tiny_teacher, tiny_teacher_name):
    with fake_knn(dim=tiny_teacher.card.dim).running() as fake:
        mine = options(fake, model_name=tiny_teacher_name, device="cpu", max_workers=1)
        search(prompts, urls, mine)
        sent = [one.body["embedding_input"] for one in fake.asked if one.body][1:]
    assert np.allclose(sent, tiny_teacher.embed_texts(PROMPTS), atol=1e-5)


@contextlib.contextmanager
def serving(pool: Path, embed_text) -> Iterator[str]:
    """`clipdistill serve`, in a thread."""
    from clipdistill.collect.pool import open_pool
    from clipdistill.collect.service import create_app
    from clipdistill.core.serving import listen, make_server, url_of

    with listen("127.0.0.1", 0) as listener:
        server = make_server(create_app(open_pool(pool), name="toys", embed_text=embed_text))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield url_of(listener)
        finally:
            server.should_exit = True
            thread.join()


def test_our_own_service(prompts, urls, tmp_path, tiny_teacher, tiny_teacher_name):
    write_pool(tmp_path / "pool", tiny_teacher, [f"http://x/{index}" for index in range(60)])
    more = {"num_result_ids": 30, "deduplicate": False, "device": "cpu"}
    search(prompts, tmp_path / "pool.txt", options(source="pool", pool=tmp_path / "pool", **more))
    expected = [replace(row, source="") for row in read_urls(tmp_path / "pool.txt")]
    for number, text in enumerate((lambda one: tiny_teacher.embed_texts([one])[0], None)):
        path = tmp_path / f"knn_{number}.txt"
        with serving(tmp_path / "pool", text) as url:
            search(prompts, path, options(url=url, model_name=tiny_teacher_name, **more))
            with pytest.raises(InputError, match=r"no index 'x'.*It has: toys"):
                search(prompts, urls, options(url=url, indice_name="x"))
            if text is None:
                with pytest.raises(ServiceError, match=r"no text model.*--query embedding"):
                    search(prompts, urls, options(url=url))
        found = [replace(row, source="") for row in read_urls(path)]
        assert [row.url for row in found] == [row.url for row in expected]
        assert np.allclose([row.score for row in found], [row.score for row in expected], atol=1e-5)


def test_the_command_line_takes_short_names():
    app = cyclopts.App()
    app.command("clipdistill.collect.search:search", name="search")
    line = (
        "search p.txt u.txt -n 7 -m 20 --source parquet --tables a --tables b --append "
        "--no-deduplicate --max-workers 3"
    )
    _, bound, _ = app.parse_args(line.split(), exit_on_error=False, print_error=False)
    found = bound.arguments["options"]
    assert (found.num_images, found.num_result_ids, found.source) == (7, 20, "parquet")
    assert (found.tables, found.append, found.deduplicate) == (("a", "b"), True, False)
    assert (bound.arguments["prompts"], bound.arguments["urls"]) == (Path("p.txt"), Path("u.txt"))


def test_importing_the_stage_is_light():
    code = (
        "import sys, clipdistill.collect.search as s; print([m for m in ('urllib3', 'pyarrow', "
        "'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.strip() == "[]"
