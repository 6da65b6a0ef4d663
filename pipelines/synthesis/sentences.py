"""What voices say and signs show, in several languages: (text, how it sounds in the formant voice's letters).

Japanese lines are in kana: espeak-ng does not read Han characters as Japanese.

Letters of the formant voice: c = "sh", q = "ch", x = the "ch" of "Bach", j = "y" of "yes", y = "u" of "tu".
"""

SENTENCES: dict[str, tuple[tuple[str, str], ...]] = {
    "en": (
        ("The red ball falls to the floor.", "de red bol folz tu de flor"),
        ("Look how far it flies.", "luk hau far it flaiz"),
        ("We meet again in the evening.", "wi mit egen in di ivnin"),
        ("Open the window, please.", "opan de windou pliz"),
    ),
    "de": (
        ("Der Ball springt gegen die Wand.", "der bal cprint gegen di vant"),
        ("Guten Morgen, wie geht es dir?", "guten morgen vi get es dir"),
        ("Das Wetter wird heute besser.", "das veter virt hoite beser"),
    ),
    "fr": (
        ("La balle tombe sur le sol.", "la bal tomb syr le sol"),
        ("Il fait beau ce matin.", "il fe bo se maten"),
        ("Nous partons demain soir.", "nu parton demen swar"),
    ),
    "es": (
        ("La pelota cae al suelo.", "la pelota kae al swelo"),
        ("Buenas tardes a todos.", "bwenas tardes a todos"),
        ("El cielo es muy azul.", "el sjelo es mui asul"),
    ),
    "it": (
        ("La palla rimbalza sul muro.", "la pala rimbaltsa sul muro"),
        ("Buona sera a tutti.", "bwona sera a tuti"),
        ("Domani andiamo al mare.", "domani andjamo al mare"),
    ),
    "ru": (
        ("Мяч падает на пол.", "mjaq padajet na pol"),
        ("Доброе утро, друзья.", "dobraje utra druzja"),
        ("Сегодня хорошая погода.", "sivodnja haroca ja pagoda"),
    ),
    "cmn": (
        ("红球落在地上。", "hun qiu luo zai di can"),
        ("大家早上好。", "da dja zau can hau"),
        ("今天天气很好。", "djin tjen tjen qi hen hau"),
    ),
    "ja": (
        ("あかいボールがおちます。", "akai boru ga oqimas"),
        ("おはようございます。", "ohajo gozaimas"),
        ("きょうはいいてんきです。", "kjo wa i tenki des"),
    ),
    "ko": (
        ("빨간 공이 떨어져요.", "balgan gon i derojo"),
        ("좋은 아침이에요.", "djoun aqim ijejo"),
    ),
}
SIGNS: dict[str, tuple[str, ...]] = {
    "en": ("OPEN NOW", "Great Sale", "Exit 42", "Hello World"),
    "de": ("Jetzt geöffnet", "Ausgang", "Frühling"),
    "fr": ("Ouvert", "Bienvenue à tous", "Sortie"),
    "es": ("¡Hola!", "Abierto", "Mañana"),
    "it": ("Aperto", "Benvenuti", "Uscita"),
    "ru": ("Открыто", "Выход", "Привет"),
    "cmn": ("欢迎光临", "出口", "今日特价"),
    "ja": ("営業中", "いらっしゃいませ", "出口"),
    "ko": ("환영합니다", "출구", "영업중"),
}
