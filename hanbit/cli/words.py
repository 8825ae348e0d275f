"""What the frame of the command line says, in English and Korean. Verbs' own help and errors are English so far."""

from hanbit.common.language import is_korean

KOREAN = {
    "From raw text to a large language model trained over many devices, and one that speaks.": (
        "날것의 글에서 여러 장치로 학습한 대규모 언어 모델까지, 그리고 말하는 모델까지."
    ),
    "error": "오류",
    "interrupted": "중단됨",
    "there is no verb {!r}.": "모르는 명령입니다: {!r}.",
    "Did you mean {}?": "비슷한 이름: {}.",
    "Verbs: {}": "있는 명령: {}.",
    "Add --debug to see the traceback.": "--debug를 붙이면 역추적을 보여 줍니다.",
    "--help": "이 도움말. 명령마다의 도움말은 `hanbit 명령 --help`.",
    "--version": "버전.",
    "--install-completion": "이 셸에서 명령과 옵션을 자동 완성합니다.",
    "--debug": "오류가 나면 역추적도 보여 줍니다.",
    "bench": "측정: 한 프로세스와 같은지, 다른 도구와 견주어 얼마나 빠른지 잽니다.",
    "convert": "다른 형식의 모델을 모델 폴더로 바꾸고, 같은지 증명합니다: GGUF 파일, 꾸러미 속 파일, 허브의 모델.",
    "config": "레시피: 편집기용 스키마를 내고, 값마다 어디서 왔는지 보여 줍니다.",
    "demo": "전체 과정을 한 번에: 학습, 실제 모델 변환과 미세 조정, 서빙, 다른 이가 만든 클라이언트로 묻기.",
    "evaluate": "모델이 얼마나 잘하는지: 처음 보는 질문을 어댑터 없이, 그리고 어댑터와 함께 물어봅니다.",
    "doctor": "이 기계를 설명합니다: 코어, 메모리, GPU, 버전, 빠진 것.",
    "deploy": "모델 폴더를 Triton 모델 저장소에 올립니다: 토큰화, 모델, 역토큰화, 그리고 이를 묶은 앙상블.",
    "generate": "모델 폴더가 말하게 합니다: 질문 하나에 답하거나 터미널에서 대화합니다.",
    "launch": "같은 명령을 여러 프로세스로 띄웁니다: 이 기계에서, 또는 주소로 이은 여러 기계에서.",
    "prepare": "글을 토큰 파일로 만듭니다: 토크나이저를 학습하거나 있는 것을 씁니다.",
    "serve": "모델을 서빙합니다: KServe v2(HTTP, gRPC), OpenAI 대화, 완성과 임베딩, 웹 페이지를 한 프로세스로.",
    "tune": "레시피대로 모델을 미세 조정합니다: 선형 층에 LoRA를 더하고 바탕 모델은 그대로 둡니다.",
    "train": "레시피대로 모델을 학습합니다: 한 프로세스, torchrun, 또는 `hanbit launch`로.",
}


def say(key: str, english: str | None = None) -> str:
    """The Korean for `key` where HANBIT_LANG=ko, else `english` (or the key itself)."""
    return KOREAN.get(key, english or key) if is_korean() else english or key
