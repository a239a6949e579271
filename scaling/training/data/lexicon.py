"""Words of the bilingual source: the same things said in English and in Chinese.

Each slot of a sentence lists pairs (English, Chinese). No word of a slot begins another one once
the slot's ending is put behind it, so that a text can be read back word by word.
"""

from __future__ import annotations

_ADJECTIVES = """
red 红色, green 绿色, white 白色, black 黑色, small 矮小, tall 高大, old 年老, young 年轻, quiet 安静,
busy 忙碌, clever 聪明, slow 缓慢, happy 快乐, tired 疲倦, brave 勇敢, shy 害羞, hungry 饥饿, kind 善良,
proud 骄傲, lonely 孤独, strong 强壮, thin 瘦弱, strange 奇怪, famous 著名
"""
_NOUNS = """
cat 猫, dog 狗, horse 马, bird 鸟, fish 鱼, rabbit 兔子, tiger 老虎, bear 熊, fox 狐狸, goat 山羊,
duck 鸭子, monkey 猴子, elephant 大象, mouse 老鼠, snake 蛇, wolf 狼, child 孩子, mother 母亲,
father 父亲, farmer 农民, doctor 医生, teacher 老师, student 学生, driver 司机, singer 歌手,
painter 画家, writer 作家, soldier 士兵, king 国王, queen 王后, baker 面包师, fisher 渔夫, hunter 猎人,
judge 法官, nurse 护士, guest 客人, friend 朋友, neighbour 邻居, traveller 旅客, worker 工人,
tailor 裁缝, poet 诗人, dancer 舞者, sailor 水手, guard 卫兵, monk 僧人, merchant 商人, shepherd 牧人,
engineer 工程师, lawyer 律师, cook 厨师, actor 演员, pilot 飞行员, brother 兄弟, sister 姐妹,
uncle 叔叔, aunt 阿姨, grandmother 祖母, grandfather 祖父, boy 男孩, girl 女孩, giant 巨人,
robot 机器人, dragon 龙
"""
_PLACES = """
near the river 河边, in the forest 森林里, on the hill 山坡上, at the market 市场里, in the garden 花园里,
on the bridge 桥头, at school 学校里, in the kitchen 厨房里, by the sea 海边, in the snow 雪地里,
at the station 车站里, in the library 图书馆里, on the road 路上, at the temple 寺庙里,
in the valley 山谷里, on the island 小岛上
"""
_VERBS = """
saw 看见, found 找到, followed 跟随, helped 帮助, called 呼唤, greeted 问候, chased 追赶, drew 描绘,
fed 喂养, visited 拜访, thanked 感谢, blamed 责备, praised 称赞, taught 教导, carried 背起, pushed 推开,
caught 抓住, hid 藏起, loved 爱上, feared 害怕, heard 听见, asked 询问, answered 回答, invited 邀请,
forgot 忘记, remembered 记住, hired 雇用, woke 叫醒, saved 救出, warned 警告, cheated 欺骗, met 遇见
"""


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    entries = (entry.strip().rpartition(" ") for entry in text.split(","))
    return tuple((english, chinese) for english, _, chinese in entries)


SLOTS = {  # of a sentence's meaning
    "adjective": _pairs(_ADJECTIVES),
    "noun": _pairs(_NOUNS),
    "place": _pairs(_PLACES),
    "verb": _pairs(_VERBS),
    "object": _pairs(_NOUNS),
}
LANGUAGES = ("en", "zh")
ORDER = {  # in which a language says the slots, and what it puts around each word
    "en": {
        "adjective": "The {} ",
        "noun": "{} ",
        "verb": "{} the ",
        "object": "{} ",
        "place": "{}.\n",
    },
    "zh": {
        "adjective": "{}的",
        "noun": "{}在",
        "place": "{}",
        "verb": "{}了",
        "object": "{}。\n",
    },
}


def spell(language: str, slot: str) -> list[bytes]:
    """Return the words of a slot as bytes, with what the language puts around them."""
    side = LANGUAGES.index(language)
    return [ORDER[language][slot].format(pair[side]).encode() for pair in SLOTS[slot]]
