"""What columns are called in published logs."""

from __future__ import annotations

import re

_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_a-zA-Z]+")

USER = (
    "user", "userid", "uid", "customer", "customerid", "member", "memberid", "visitor",
    "visitorid", "reviewer", "reviewerid", "account", "client", "clientid", "person", "who",
    "listener", "reader", "viewer", "player", "buyer", "shopper", "kunde", "nutzer", "benutzer",
)  # fmt: skip
SESSION = ("session", "sessionid", "sess")
ITEM = (
    "item", "itemid", "iid", "product", "productid", "asin", "sku", "movie", "movieid", "video",
    "videoid", "article", "articleid", "aid", "news", "newsid", "song", "songid", "track",
    "trackid", "artist", "artistid", "business", "businessid", "venue", "venueid", "isbn", "book",
    "bookid", "game", "gameid", "app", "appid", "post", "postid", "content", "contentid", "photo",
    "anime", "recipe", "recipeid", "location", "poi", "artikel", "produkt",
)  # fmt: skip
TIME = (
    "time", "timestamp", "ts", "datetime", "created", "date", "when", "unixtime", "unixreviewtime",
    "clock", "utc", "at", "datum", "zeit", "zeitpunkt",
)  # fmt: skip
RATING = ("rating", "ratings", "stars", "star", "score", "overall", "grade", "rate",
          "bewertung", "sterne")  # fmt: skip
DWELL = ("dwell", "play", "played", "watch", "watched", "read", "listened", "spent", "view",
         "viewed")  # fmt: skip
SPAN = ("time", "ms", "sec", "seconds", "duration", "length", "s")
DURATION = ("duration", "length", "runtime")
CLICK = (
    "click", "clicks", "clicked", "cart", "carts", "order", "orders", "is", "label", "target",
    "response", "bought", "purchased", "purchase", "liked", "like", "long", "conversion", "reward",
    "finish",
)  # fmt: skip
PLAYS = ("count", "counts", "plays", "playcount", "weight", "visits", "listens", "times", "freq",
         "frequency", "num", "hours", "playtime")  # fmt: skip
EVENT = ("event", "type", "action", "behavior", "behaviour", "interaction", "feedback")
SHOWN = ("inview", "shown", "impression", "impressions", "candidates", "items", "slate", "list")
CLICKED = ("clicked", "click", "clicks", "chosen", "selected")
HISTORY = ("history", "seq", "sequence", "past")
SLATE = ("slate", "slateid", "impression", "impressionid", "request", "requestid", "listid")
POSITION = ("position", "rank", "pos")
PROPENSITY = ("propensity", "pscore", "probability", "prob")
SPLIT = ("split", "part", "fold", "subset")
#: What an event of a funnel is worth, by a word in its name.
WORTH = {
    "view": 1, "pv": 1, "click": 1, "clicks": 1, "detail": 1, "views": 1, "visit": 1, "read": 1,
    "play": 1, "fav": 3, "like": 3, "favorite": 3, "wishlist": 3, "save": 3, "bookmark": 3,
    "share": 3, "cart": 3, "carts": 3, "addtocart": 3, "add": 3, "basket": 3, "buy": 6,
    "purchase": 6, "purchases": 6, "order": 6, "orders": 6, "transaction": 6, "checkout": 6,
    "conversion": 6, "impression": 0, "impressions": 0, "show": 0, "skip": 0, "remove": 0,
    "dislike": 0, "hide": 0,
}  # fmt: skip


def words_of(name: str) -> tuple[str, ...]:
    """The words of a column's name in small letters, and all of them joined.

    >>> words_of("user_id"), words_of("videoId"), words_of("Book-Rating")
    (('user', 'id', 'userid'), ('video', 'id', 'videoid'), ('book', 'rating', 'bookrating'))
    """
    parts = [part.lower() for part in _PARTS.findall(name)]
    joined = "".join(parts)
    return (*parts, joined) if len(parts) > 1 else tuple(parts)


def hits(name: str, words: tuple[str, ...]) -> int:
    """How well a name fits a role: 2 where its last word (before ``id``) does, 1 where any does.

    >>> hits("user_id", USER), hits("age_of_user_group", USER), hits("parent_asin", ITEM)
    (2, 1, 2)
    """
    parts = [part.lower() for part in _PARTS.findall(name)]
    core = [part for part in parts if part not in ("id", "ids", "hash")] or parts
    if core and ({core[-1], "".join(parts)} & set(words)):
        return 2
    return 1 if set(parts) & set(words) else 0
