"""Words that stand around the main text: navigation, banners, comments, in each language."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Furniture:
    """The fixed words of a site in one language."""

    nav: tuple[str, ...]
    cookie: str
    accept: str
    newsletter: str
    related: str
    comments_title: str
    latest: str
    rights: str
    share: str
    read_more: str
    search: str
    comments: tuple[str, ...]
    authors: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split("|"))


FURNITURE: dict[str, Furniture] = {
    "en": Furniture(
        _words("Home|News|Sport|Food|Culture|Letters|Archive|About us|Contact|Jobs"),
        "We and our 214 partners store and access cookies on your device to show personalised "
        "advertising. You can change your choice at any time in the cookie policy.",
        "Accept all|Reject all|Manage settings",
        "Get our weekly letter. Sign up and never miss a story.",
        "You may also like", "Comments", "Most read", "All rights reserved.", "Share this",
        "Read more", "Search",
        _words(
            "Lovely piece, thanks for this.|My grandfather would have enjoyed it.|"
            "I disagree with the second paragraph but well written.|First!|"
            "Could you post the source please?|We were there too and it was freezing.|"
            "Typo in line four.|Why is this not on the front page?|"
            "Does anybody know if it is still open in winter?|Sent it to my sister, she laughed.|"
            "I remember it differently, but it was a long time ago.|Good read with the coffee."
        ),
        _words("Marion Lusk|Peter Hallam|Adaeze Brook|Tim Varley|Joan Ferris|Editorial desk"),
    ),
    "de": Furniture(
        _words("Startseite|Region|Sport|Kultur|Leserbriefe|Archiv|Impressum|Datenschutz"),
        "Wir und unsere Partner verwenden Cookies, um Inhalte und Anzeigen zu personalisieren.",
        "Alle akzeptieren|Ablehnen|Einstellungen",
        "Jetzt den Newsletter bestellen und nichts mehr verpassen!",
        "Das könnte Sie auch interessieren", "Kommentare", "Meistgelesen",
        "Alle Rechte vorbehalten.", "Artikel teilen", "Weiterlesen", "Suche",
        _words("Schöner Beitrag, danke!|Das kenne ich noch von früher.|Sehe ich etwas anders."),
        _words("Karin Vogel|Uwe Brandt|Redaktion"),
    ),
    "fr": Furniture(
        _words("Accueil|Région|Sports|Culture|Courrier|Archives|Mentions légales|Contact"),
        "Nos partenaires et nous déposons des cookies pour personnaliser la publicité.",
        "Tout accepter|Tout refuser|Paramétrer",
        "Inscrivez-vous à notre lettre du vendredi !",
        "À lire aussi", "Commentaires", "Les plus lus", "Tous droits réservés.", "Partager",
        "Lire la suite", "Rechercher",
        _words("Merci pour cet article.|J'y étais, quel souvenir !|Très bien raconté."),
        _words("Hélène Morin|Paul Garrec|La rédaction"),
    ),
    "es": Furniture(
        _words("Portada|Región|Deportes|Cultura|Cartas|Hemeroteca|Aviso legal|Contacto"),
        "Nosotros y nuestros socios utilizamos cookies para personalizar los anuncios.",
        "Aceptar todo|Rechazar|Configurar",
        "¡Suscríbete a nuestro boletín semanal!",
        "También te puede interesar", "Comentarios", "Lo más leído",
        "Todos los derechos reservados.", "Compartir", "Leer más", "Buscar",
        _words("Muy bonito, gracias.|Yo también lo recuerdo así.|No estoy de acuerdo con todo."),
        _words("Elena Pardo|Julián Cano|Redacción"),
    ),
    "it": Furniture(
        _words("Home|Cronaca|Sport|Cultura|Lettere|Archivio|Note legali|Contatti"),
        "Noi e i nostri partner utilizziamo i cookie per personalizzare gli annunci.",
        "Accetta tutto|Rifiuta|Preferenze",
        "Iscriviti alla nostra newsletter settimanale!",
        "Potrebbe interessarti", "Commenti", "I più letti", "Tutti i diritti riservati.",
        "Condividi", "Continua a leggere", "Cerca",
        _words("Bellissimo articolo, grazie.|Me lo ricordo bene.|Non sono del tutto d'accordo."),
        _words("Chiara Lodi|Sandro Pace|Redazione"),
    ),
    "pl": Furniture(
        _words("Strona główna|Region|Sport|Kultura|Listy|Archiwum|Kontakt"),
        "Używamy plików cookie, aby dopasować reklamy.", "Zgadzam się|Odrzuć",
        "Zapisz się do newslettera!", "Przeczytaj także", "Komentarze", "Najczęściej czytane",
        "Wszelkie prawa zastrzeżone.", "Udostępnij", "Czytaj więcej", "Szukaj",
        _words("Świetny tekst.|Dobrze to pamiętam."), _words("Anna Lis|Redakcja"),
    ),
    "ja": Furniture(
        _words("ホーム|ニュース|暮らし|料理|読み物|お問い合わせ"),
        "当サイトではクッキーを使用しています。", "同意する|拒否する",
        "メールマガジンに登録する", "関連記事", "コメント", "人気の記事", "無断転載を禁じます。",
        "シェア", "続きを読む", "検索",
        _words("すてきなお話ですね。|ありがとうございました。"), _words("編集部|山下"),
    ),
    "ru": Furniture(
        _words("Главная|Новости|Спорт|Культура|Письма|Архив|Контакты"),
        "Мы используем файлы cookie для показа рекламы.", "Принять|Отклонить",
        "Подпишитесь на нашу рассылку!", "Читайте также", "Комментарии", "Популярное",
        "Все права защищены.", "Поделиться", "Читать дальше", "Поиск",
        _words("Спасибо за статью.|Хорошо помню то время."), _words("Анна Лис|Редакция"),
    ),
    "nl": Furniture(
        _words("Voorpagina|Regio|Sport|Cultuur|Brieven|Archief|Contact"),
        "Wij gebruiken cookies om advertenties te tonen.", "Akkoord|Weigeren",
        "Schrijf je in voor de nieuwsbrief!", "Lees ook", "Reacties", "Meest gelezen",
        "Alle rechten voorbehouden.", "Delen", "Lees verder", "Zoeken",
        _words("Mooi stuk, bedankt.|Dat weet ik nog goed."), _words("Els Dekker|Redactie"),
    ),
    "el": Furniture(
        _words("Αρχική|Ειδήσεις|Αθλητικά|Πολιτισμός|Αρχείο|Επικοινωνία"),
        "Χρησιμοποιούμε cookies για διαφημίσεις.", "Αποδοχή|Απόρριψη",
        "Εγγραφείτε στο ενημερωτικό δελτίο!", "Διαβάστε επίσης", "Σχόλια", "Δημοφιλή",
        "Με επιφύλαξη παντός δικαιώματος.", "Κοινοποίηση", "Περισσότερα", "Αναζήτηση",
        _words("Ωραίο κείμενο.|Το θυμάμαι κι εγώ."), _words("Άννα Λύρα|Σύνταξη"),
    ),
}  # fmt: skip
