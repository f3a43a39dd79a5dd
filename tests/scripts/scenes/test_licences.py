from scenes.licences import PUBLIC_DOMAIN, UNKNOWN, debian_licence, readme_licence

NOTICE = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: A
License: GPL-2

Files: Help/*
       Media/*
Copyright: B
License: CC-BY-SA-3.0
 the text

Files: 16.04/sunset_by_B.jpg
License: CC-BY-4.0

License: GPL-2
 text
"""


def test_the_last_stanza_that_matches_counts() -> None:
    assert debian_licence(NOTICE, "usr/share/scratch/Media/Costumes/cat.png") == "CC-BY-SA-3.0"
    assert debian_licence(NOTICE, "usr/share/backgrounds/sunset_by_B.jpg") == "CC-BY-4.0"
    assert debian_licence("\n" + NOTICE, "usr/share/other.png") == "GPL-2"


def test_a_notice_in_prose_names_no_licence() -> None:
    assert debian_licence("This package was debianized by someone.", "a.png") == UNKNOWN


def test_the_nearest_readme_names_the_licence_of_a_file() -> None:
    files = {
        "a/resource/README": b"Copyright: X\nLicense: Public Domain\nSource: y\nFiles:\nf.webp\nwonders/g.webp\n\n"
        b"Copyright: Z\nSource: z\nLicense: CC0-1.0\nFiles:\nh.webp\n\nCopyright: W\nFiles:\ni.webp\n",
    }
    found = {name: readme_licence(files, f"a/resource/{name}") for name in ("f.webp", "wonders/g.webp", "h.webp")}
    assert found == {"f.webp": "public-domain", "wonders/g.webp": "public-domain", "h.webp": "CC0-1.0"}
    assert set(found.values()) == set(PUBLIC_DOMAIN)
    for name in ("i.webp", "nowhere.webp"):  # a paragraph without a licence has not the one before it
        assert readme_licence(files, f"a/resource/{name}") == UNKNOWN
    assert readme_licence({}, "a/b.webp") == UNKNOWN
