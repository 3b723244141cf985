"""The header of Moodle's log export, in the languages that people export it in."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

MOST_COLUMNS = 64
"""An export has nine; a first line with more than this is no header of one."""


class Column(Enum):
    """A column of the export; the value is its English name."""

    TIME = "Time"
    USER = "User full name"
    AFFECTED = "Affected user"
    CONTEXT = "Event context"
    COMPONENT = "Component"
    EVENT = "Event name"
    DESCRIPTION = "Description"
    ORIGIN = "Origin"
    ADDRESS = "IP address"


REQUIRED = (Column.TIME, Column.USER, Column.CONTEXT, Column.EVENT)
"""Without these there is no event log to be made."""


@dataclass(frozen=True, slots=True)
class Language:
    """What a language pack calls things. ``names`` in the order of ``Column``, variants by ``|``.

    ``course`` and ``user`` are the words before the colon of an event context.
    """

    code: str
    names: tuple[str, ...]
    course: str
    user: str


def _language(code: str, names: str, course: str, user: str) -> Language:
    return Language(code, tuple(part.strip() for part in names.split(";")), course, user)


LANGUAGES: tuple[Language, ...] = (
    _language(
        "en",
        "Time; User full name; Affected user; Event context; Component; Event name; Description;"
        " Origin; IP address",
        "Course",
        "User",
    ),
    _language(
        "de",
        "Zeit; Vollständiger Name|Vollständiger Name des Nutzers|Nutzer/in;"
        " Betroffene/r Nutzer/in|Betroffener Nutzer|Betroffene Person; Ereigniskontext;"
        " Komponente; Ereignisname; Beschreibung; Herkunft; IP-Adresse",
        "Kurs",
        "Nutzer/in|Nutzer",
    ),
    _language(
        "fr",
        "Heure|Date; Nom complet de l'utilisateur|Nom complet; Utilisateur concerné|Utilisateur touché;"
        " Contexte de l'événement; Composant; Nom de l'événement; Description; Origine; Adresse IP",
        "Cours",
        "Utilisateur",
    ),
    _language(
        "es",
        "Hora; Nombre completo del usuario|Nombre completo; Usuario afectado; Contexto del evento;"
        " Componente; Nombre evento|Nombre del evento; Descripción; Origen; Dirección IP",
        "Curso",
        "Usuario",
    ),
    _language(
        "it",
        "Data/Ora|Ora; Nome completo dell'utente|Nome completo; Utente coinvolto;"
        " Contesto dell'evento; Componente; Evento|Nome evento; Descrizione; Origine; Indirizzo IP",
        "Corso",
        "Utente",
    ),
    _language(
        "pt",
        "Data e hora|Hora; Nome completo do utilizador; Utilizador afetado; Contexto do evento;"
        " Componente; Nome do evento; Descrição; Origem; Endereço IP",
        "Disciplina",
        "Utilizador",
    ),
    _language(
        "pt_br",
        "Hora; Nome completo|Nome completo do usuário; Usuário afetado; Contexto do Evento;"
        " Componente; Nome do evento; Descrição; Origem; Endereço IP",
        "Curso",
        "Usuário",
    ),
    _language(
        "nl",
        "Tijd; Volledige naam van de gebruiker|Volledige naam; Over gebruiker|Betrokken gebruiker;"
        " Gebeurteniscontext; Component; Gebeurtenisnaam; Beschrijving; Oorsprong; IP-adres",
        "Cursus",
        "Gebruiker",
    ),
    _language(
        "pl",
        "Czas; Pełna nazwa|Pełna nazwa użytkownika; Dotyczy użytkownika; Kontekst zdarzenia;"
        " Składnik|Komponent; Nazwa zdarzenia; Opis; Źródło|Pochodzenie; Adres IP",
        "Kurs",
        "Użytkownik",
    ),
    _language(
        "ru",
        "Время; Полное имя пользователя; Затронутый пользователь; Контекст события; Компонент;"
        " Название события; Описание; Источник; IP-адрес",
        "Курс",
        "Пользователь",
    ),
    _language(
        "el",
        "Ώρα; Πλήρες όνομα χρήστη; Χρήστης που επηρεάζεται; Πλαίσιο γεγονότος;"
        " Στοιχείο λογισμικού|Συστατικό; Όνομα γεγονότος; Περιγραφή; Προέλευση;"
        " Διεύθυνση IP|IP Διεύθυνση",
        "Μάθημα",
        "Χρήστης",
    ),
    _language(
        "tr",
        "Zaman; Kullanıcının tam adı|Kullanıcı tam adı; Etkilenen kullanıcı; Etkinlik bağlamı;"
        " Bileşen; Etkinlik adı; Açıklama; Köken; IP adresi",
        "Kurs|Ders",
        "Kullanıcı",
    ),
    _language(
        "cs",
        "Čas; Celé jméno uživatele|Celé jméno; Dotčený uživatel|Ovlivněný uživatel|Týká se uživatele;"
        " Kontext události; Komponenta|Součást; Název události; Popis; Původ|Zdroj; IP adresa",
        "Kurz",
        "Uživatel",
    ),
    _language(
        "sv",
        "Tid; Fullständigt namn|Hela namnet; Berörd användare; Händelsekontext; Komponent;"
        " Händelsenamn; Beskrivning; Ursprung; IP-adress",
        "Kurs",
        "Användare",
    ),
    _language(
        "ca",
        "Hora; Nom complet de l'usuari; Usuari afectat; Context de l'esdeveniment; Component;"
        " Nom de l'esdeveniment; Descripció; Origen; Adreça IP",
        "Curs",
        "Usuari",
    ),
)
"""Checked against published language packs of Moodle, but Czech, of which none was at hand."""

CODES = tuple(language.code for language in LANGUAGES)
BY_CODE = {language.code: language for language in LANGUAGES}


def fold(text: str) -> str:
    """Return a header's cell for comparison: case, quotes, spaces and composition do not count."""
    plain = unicodedata.normalize("NFKC", text).replace("’", "'").replace("`", "'")
    # Turkish: the lower case of I with a dot is two characters, of which one is a bare dot.
    return " ".join(plain.casefold().replace("\u0307", "").split())


def _names() -> Mapping[str, Mapping[str, Column]]:
    return {
        language.code: {
            fold(variant): column
            for column, variants in zip(Column, language.names, strict=True)
            for variant in variants.split("|")
        }
        for language in LANGUAGES
    }


_NAMES = _names()


@dataclass(frozen=True, slots=True)
class Header:
    """A recognised header: its language, the place of each column, and what is not known."""

    language: str
    places: Mapping[Column, int]
    width: int
    unknown: tuple[str, ...]

    @property
    def missing(self) -> tuple[Column, ...]:
        """The required columns that are not there."""
        return tuple(column for column in REQUIRED if column not in self.places)


def match_header(cells: Sequence[str]) -> Header | None:
    """Return the header that ``cells`` are, in the language that knows most of them.

    None when no language knows any. The first of equal columns counts.
    """
    if len(cells) > MOST_COLUMNS:
        return None
    folded = [fold(cell) for cell in cells]
    best: Header | None = None
    for code, names in _NAMES.items():
        places: dict[Column, int] = {}
        unknown: list[str] = []
        for place, cell in enumerate(folded):
            column = names.get(cell)
            if column is None:
                unknown.append(cells[place][:100])
            else:
                places.setdefault(column, place)
        if places and (best is None or len(places) > len(best.places)):
            best = Header(code, places, len(cells), tuple(unknown))
    return best


def words_before_colon(kind: str) -> frozenset[str]:
    """Return what every language calls a ``course`` or a ``user`` in an event context, folded.

    Of every language: a log keeps the words of who exported it, and sites mix them.
    """
    return frozenset(
        fold(word) for each in LANGUAGES for word in str(getattr(each, kind)).split("|")
    )
