import pytest
from tiny_models import CHAT_TEMPLATE, byte_tokenizer

from potstill.errors import VocabularyError
from potstill.teachers import check_chat_rendering, shared_vocabulary

PLAIN = 257  # 256 bytes and <|end|>


def test_one_tokenizer_is_shared_whole_whatever_the_padding_of_the_heads():
    size = shared_vocabulary(byte_tokenizer(), byte_tokenizer(), teacher_rows=320, student_rows=257)
    assert size == PLAIN


def test_one_may_go_on_where_the_other_stops():
    longer = byte_tokenizer(extra=("<think>", "</think>"))
    for teacher, student in [(longer, byte_tokenizer()), (byte_tokenizer(), longer)]:
        assert shared_vocabulary(teacher, student, teacher_rows=320, student_rows=320) == PLAIN


def test_tokens_beyond_the_rows_of_a_head_are_not_shared():
    longer = byte_tokenizer(extra=("<image>",))
    assert shared_vocabulary(longer, longer, teacher_rows=PLAIN, student_rows=320) == PLAIN


def test_the_first_id_that_differs_is_named_with_both_tokens():
    teacher, student = byte_tokenizer(extra=("<a>", "<b>", "<c>")), byte_tokenizer(extra=("<a>", "<x>", "<y>", "<z>"))
    with pytest.raises(VocabularyError, match=r"teacher has 260 tokens, student 261, .* at id 258 \('<b>' / '<x>'\)"):
        shared_vocabulary(teacher, student, teacher_rows=320, student_rows=320)


def test_equal_sizes_prove_nothing():
    with pytest.raises(VocabularyError, match="id 257"):
        shared_vocabulary(
            byte_tokenizer(extra=("<a>",)), byte_tokenizer(extra=("<b>",)), teacher_rows=300, student_rows=300
        )


def test_equal_chats_and_no_chats_pass():
    chat = byte_tokenizer(chat_template=CHAT_TEMPLATE)
    check_chat_rendering(chat, byte_tokenizer(chat_template=CHAT_TEMPLATE))
    check_chat_rendering(byte_tokenizer(), byte_tokenizer())


def test_another_rendering_is_refused_at_its_first_difference():
    teacher = byte_tokenizer(chat_template=CHAT_TEMPLATE)
    student = byte_tokenizer(chat_template=CHAT_TEMPLATE.replace("\n{{ m.content", " {{ m.content"))
    with pytest.raises(VocabularyError, match=r"from character 8 on, '\\nWhat is 2.*' / ' What is 2"):
        check_chat_rendering(teacher, student)


def test_another_generation_prompt_is_refused():
    ending = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    with pytest.raises(VocabularyError, match=r"'<\|assistant\|>' / ''"):
        check_chat_rendering(
            byte_tokenizer(chat_template=CHAT_TEMPLATE + ending), byte_tokenizer(chat_template=CHAT_TEMPLATE)
        )


def test_a_template_on_one_side_only_is_refused():
    with pytest.raises(VocabularyError, match="the student has no chat template"):
        check_chat_rendering(byte_tokenizer(chat_template=CHAT_TEMPLATE), byte_tokenizer())


def test_templates_may_refuse_a_system_turn_if_both_do():
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + CHAT_TEMPLATE
    check_chat_rendering(byte_tokenizer(chat_template=refusing), byte_tokenizer(chat_template=refusing))
    with pytest.raises(VocabularyError, match="the teacher has no chat template for it"):
        check_chat_rendering(byte_tokenizer(chat_template=refusing), byte_tokenizer(chat_template=CHAT_TEMPLATE))


def test_the_same_text_in_other_tokens_is_refused():
    teacher = byte_tokenizer(chat_template=CHAT_TEMPLATE, extra=("<|user|>",))
    with pytest.raises(VocabularyError, match=r"cut a conversation into other tokens: from token 0 on, \['<\|user\|>'"):
        check_chat_rendering(teacher, byte_tokenizer(chat_template=CHAT_TEMPLATE))
