"""What `report.html` says, in English and Korean; both are in the file, a button changes between them."""

# {} stands for a number
WORDS = {
    "report": ("training report", "학습 보고서"),
    "loss": ("Loss", "손실"),
    "validation": ("validation", "검증"),
    "training": ("training", "학습"),
    "learning_rate": ("Learning rate", "학습률"),
    "grad_norm": ("Gradient norm", "기울기 노름"),
    "speed": ("Tokens per second", "초당 토큰"),
    "mfu": ("MFU, %", "MFU (모델 FLOPs 이용률), %"),
    "model_flops": ("Model FLOP/s", "초당 모델 FLOP"),
    "last_mfu": ("MFU, median", "MFU, 중앙값"),
    "peak_memory": ("peak memory", "최대 메모리"),
    "memory": ("Peak memory of rank 0, GB", "랭크 0의 최대 메모리, GB"),
    "time_of_a_step": ("Where a step's time goes", "한 단계의 시간이 쓰이는 곳"),
    "phases_are": ("mean of all steps, on rank 0", "모든 단계의 평균, 랭크 0"),
    "data": ("data", "데이터"),
    "forward_backward": ("forward and backward", "순전파와 역전파"),
    "communication": ("communication", "통신"),
    "pipeline_idle": ("waiting in the pipeline", "파이프라인 대기"),
    "optimizer": ("optimizer", "옵티마이저"),
    "other": ("other", "기타"),
    "step": ("step", "단계"),
    "steps": ("steps", "단계"),
    "tokens": ("tokens", "토큰"),
    "last_loss": ("last loss", "마지막 손실"),
    "last_validation": ("last validation loss", "마지막 검증 손실"),
    "median_speed": ("tokens/s, median", "초당 토큰, 중앙값"),
    "time": ("time in steps", "단계에 든 시간"),
    "time_left": ("time left", "남은 시간"),
    "recipe": ("Recipe, as resolved", "확정된 레시피"),
    "environment": ("Environment", "환경"),
    "processes": ("{} processes", "프로세스 {}개"),
    "cores": ("{} cores", "코어 {}개"),
    "nothing": ("no numbers yet", "아직 값이 없습니다"),
}


def both(word: str, number: str = "") -> str:
    """The word in both languages, `number` (HTML) where the word asks for one."""
    english, korean = (text.format(number) for text in WORDS[word])
    return f'<span class="en">{english}</span><span class="ko">{korean}</span>'


def one(word: str, language: str) -> str:
    return WORDS[word][language == "ko"]
