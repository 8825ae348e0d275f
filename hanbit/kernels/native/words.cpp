// See words.h. The patterns are those of tokenizers/words.py, character by character.

#include "words.h"

#include <string.h>

#include <array>
#include <new>
#include <unordered_map>

namespace hanbit {

namespace {

// Kinds of characters; one may be of several. Every other character is of none.
enum Kind : uint8_t {
    BLANK = 1,     // Unicode's White_Space
    LEVEL = 2,     // space and tab, of the blanks
    BREAK = 4,     // \r and \n, of the blanks
    LETTER = 8,    // Latin without accents, Hangul syllables
    DIGIT = 16,    // ASCII's
    SIGN = 32,     // ASCII's
    STOP = 64,     // ASCII that is no letter, and the end: a word of letters ends before it
    NOTHING = 128  // the end of the text
};

constexpr std::array<uint8_t, 128> kinds_of_ascii() {
    std::array<uint8_t, 128> kinds{};
    for (int code = 0; code < 128; ++code) {
        const bool is_letter = (code >= 'A' && code <= 'Z') || (code >= 'a' && code <= 'z');
        const bool is_digit = code >= '0' && code <= '9';
        uint8_t kind = is_letter ? LETTER : STOP;
        if (is_digit) kind |= DIGIT;
        if (code > ' ' && code < 127 && !is_letter && !is_digit) kind |= SIGN;
        if (code == ' ' || (code >= '\t' && code <= '\r')) kind |= BLANK;
        if (code == ' ' || code == '\t') kind |= LEVEL;
        if (code == '\r' || code == '\n') kind |= BREAK;
        kinds[code] = kind;
    }
    return kinds;
}
constexpr std::array<uint8_t, 128> ASCII = kinds_of_ascii();

uint8_t kind_beyond_ascii(uint32_t code) {
    if (code >= 0xac00 && code <= 0xd7a3) return LETTER;
    const bool is_blank = code == 0x85 || code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) ||
                          code == 0x2028 || code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
    return is_blank ? BLANK : 0;
}

// Goes through a text, which is UTF-8.
class Cursor {
  public:
    Cursor(const char* at, const char* end) : at_(at), end_(end) { look(); }

    const char* at() const { return at_; }
    uint8_t here() const { return here_; }  // kind of the character at `at`
    uint8_t last() const { return last_; }  // of the one passed last

    void pass() {
        last_ = here_;
        at_ += size_;
        look();
    }
    void pass_while(uint8_t kinds) {
        while (here_ & kinds) pass();
    }
    void pass_until(uint8_t kinds) {
        while (!(here_ & (kinds | NOTHING))) pass();
    }

  private:
    void look() {
        size_ = 1;
        if (at_ == end_) {
            here_ = STOP | NOTHING;
            return;
        }
        const uint8_t first = *at_;
        if (first < 0x80) {
            here_ = ASCII[first];
            return;
        }
        size_ = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
        const auto rest = [this](int index) { return static_cast<uint32_t>(at_[index]) & 0x3f; };
        const uint32_t code = size_ == 2   ? (first & 0x1fu) << 6 | rest(1)
                              : size_ == 3 ? (first & 0x0fu) << 12 | rest(1) << 6 | rest(2)
                                           : 0x10000;  // none of those has a kind
        here_ = kind_beyond_ascii(code);
    }

    const char *at_, *end_;
    uint8_t here_, last_ = 0;
    int size_;
};

// Where the part ends that begins at `begin`, before `end`. The names are those of the patterns in words.py.
const char* part_end(const char* begin, const char* end, bool by_gpt2) {
    Cursor cursor(begin, end);
    const char* last_blank = begin;
    for (; cursor.here() & BLANK; cursor.pass()) last_blank = cursor.at();
    const bool is_indent = last_blank > begin && *last_blank == ' ' && cursor.here() & (SIGN | LETTER);
    if (is_indent) return last_blank;
    cursor.pass_until(BLANK | LETTER);
    const char* letters = cursor.at();
    cursor.pass_while(LETTER);
    const bool is_word = cursor.at() > letters && cursor.here() & STOP;
    if (is_word) return cursor.at();
    cursor.pass_until(BLANK);  // a run
    if (by_gpt2 || cursor.last() & (DIGIT | LETTER)) return cursor.at();
    if (cursor.last() & SIGN) {
        cursor.pass_while(BREAK);
        return cursor.at();
    }
    while (cursor.here() & BLANK && !(cursor.here() & LEVEL)) {
        cursor.pass_while(BLANK);
        cursor.pass_until(BLANK);
    }
    return cursor.at();
}

constexpr int64_t MOST_STEPS = 64;        // a text made to collide costs this and the library's time, no more
constexpr size_t LONGEST = 256;           // bytes of a word that is kept; longer ones hardly come again
constexpr int64_t NUMBERS_OF_A_WORD = 8;  // of 4 bytes: two counts, the ids, the bytes

uint64_t hash_of(std::string_view word) {  // FNV-1a
    uint64_t hash = 0xcbf29ce484222325;
    for (const char byte : word) hash = (hash ^ static_cast<uint8_t>(byte)) * 0x100000001b3;
    return hash ^ hash >> 29;
}

template <typename T>
T* zeros(int64_t count) {  // pages that nothing is written to take no memory
    void* memory = calloc(count, sizeof(T));
    if (memory == nullptr) throw std::bad_alloc();
    return static_cast<T*>(memory);
}

uint64_t twice_and_more(int64_t count) {
    uint64_t size = 2 * MOST_STEPS;
    while (size < 2 * static_cast<uint64_t>(count)) size *= 2;
    return size;
}

}  // namespace

Table::Table(int64_t most_words)
    : mask_(twice_and_more(most_words) - 1),
      most_words_(most_words),
      room_(NUMBERS_OF_A_WORD * most_words),
      slots_(zeros<std::atomic<uint64_t>>(mask_ + 1)),
      records_(zeros<int32_t>(room_)) {}

const int32_t* Table::find(std::string_view word) const {
    const uint64_t hash = hash_of(word);
    for (int64_t step = 0; step < MOST_STEPS; ++step) {
        const uint64_t found = slot(hash, step)->load(std::memory_order_acquire);
        if (found == 0) return nullptr;
        if (found >> 32 != hash >> 32) continue;
        const int32_t* record = &records_[static_cast<uint32_t>(found)];
        const size_t num_bytes = record[0];
        if (num_bytes == word.size() && !memcmp(record + 2 + record[1], word.data(), num_bytes)) return record;
    }
    return nullptr;
}

bool Table::add(std::string_view word, const int32_t* ids, int64_t num_ids) {
    if (word.size() > LONGEST) return true;
    const int64_t numbers = 2 + num_ids + (word.size() + 3) / 4;
    if (num_words_ == most_words_ || used_ + numbers > room_) return false;
    const uint64_t hash = hash_of(word);
    for (int64_t step = 0; step < MOST_STEPS; ++step) {
        std::atomic<uint64_t>* const place = slot(hash, step);
        if (place->load(std::memory_order_relaxed) != 0) continue;
        int32_t* record = &records_[used_];
        record[0] = word.size(), record[1] = num_ids;
        memcpy(record + 2, ids, num_ids * sizeof(int32_t));
        memcpy(record + 2 + num_ids, word.data(), word.size());
        place->store(hash >> 32 << 32 | used_, std::memory_order_release);
        used_ += numbers, ++num_words_;
        break;
    }
    return true;
}

std::shared_ptr<Table> Words::table() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!table_) table_ = std::make_shared<Table>(most_words_);
    return table_;
}

Reading* Words::read(const char* texts, const int64_t* ends, const bool* cut, int64_t num_texts) {
    auto reading = std::make_unique<Reading>();
    reading->texts = texts;
    const std::shared_ptr<Table> known = table();
    std::unordered_map<std::string_view, int64_t> met;  // new words
    const auto add = [&](const char* begin, const char* end) {
        const std::string_view word(begin, end - begin);
        if (const int32_t* record = known->find(word)) {
            reading->known.insert(reading->known.end(), record + 2, record + 2 + record[1]);
            return;
        }
        const auto [place, is_new] = met.try_emplace(word, met.size());
        if (is_new) reading->words.push_back({begin - texts, end - texts});
        reading->holes.push_back({static_cast<int64_t>(reading->known.size()), place->second});
    };
    const char* at = texts;
    for (int64_t text = 0; text < num_texts; ++text) {
        for (const char *end = texts + ends[text], *next; at < end; at = next) {
            next = cut[text] ? part_end(at, end, by_gpt2_) : end;
            add(at, next);
        }
        reading->holes.push_back({static_cast<int64_t>(reading->known.size()), TEXT_ENDS});
    }
    reading->new_words = reading->words.data(), reading->num_new = reading->words.size();
    return reading.release();
}

void Words::learn(Reading& reading, const int32_t* ids, const int64_t* ends) {
    const auto first = [ends](int64_t word) { return word == 0 ? 0 : ends[word - 1]; };
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        for (int64_t index = 0; index < reading.num_new; ++index) {
            const auto [begin, end] = reading.words[index];
            const std::string_view word(reading.texts + begin, end - begin);
            const int64_t from = first(index), num_ids = ends[index] - from;
            if (table_->find(word) || table_->add(word, ids + from, num_ids)) continue;
            table_ = std::make_shared<Table>(most_words_);
            table_->add(word, ids + from, num_ids);
        }
    }
    const std::vector<int32_t>& known = reading.known;
    reading.all.reserve(known.size() + reading.holes.size());
    int64_t done = 0;
    for (const auto& [after, word] : reading.holes) {
        reading.all.insert(reading.all.end(), known.begin() + done, known.begin() + after);
        done = after;
        if (word == TEXT_ENDS) {
            reading.text_ends.push_back(reading.all.size());
        } else {
            reading.all.insert(reading.all.end(), ids + first(word), ids + ends[word]);
        }
    }
    reading.ids = reading.all.data(), reading.num_ids = reading.all.size();
    reading.ends = reading.text_ends.data();
}

}  // namespace hanbit
