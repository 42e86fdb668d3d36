"""What becomes of a pattern in every architecture of `transformers`, by `model_type`."""

WORKS = """
afmoe aimv2_vision_model albert apertus apertus1p5_text arcee aria_text axk1 beam bert
bert-generation biogpt bitnet camembert chinese_clip_vision_model clip_text_model
clip_vision_model codegen cohere cohere2 cohere2_moe ctrl cwm data2vec-audio data2vec-text
deepseek_v2 deepseek_v3 deepseek_v4 deit diffllama dinov2 dinov2_with_registers dinov3_vit
distilbert dpr dpt electra embedding_gemma2_text ernie ernie4_5 ernie4_5_moe eurobert exaone
exaone4 exaone_moe falcon_h1 flex_olmo flint gemma gemma2 gemma3_text gemma4_unified_text glm
glm4 glm4_moe glm4_moe_lite gpt-sw3 gpt2 gpt_bigcode gpt_neox gpt_oss gptj granite
granite_docling_text granite_swa granitemoe granitemoe_swa granitemoeshared gte helium
higgs_audio_v2 hrm_text hubert hy_v3 hyperclovax ijepa internlm3 internvl_vision iquestcoder
jais2 jamba jetmoe jina_embeddings_v3 kolibri1 laguna lara_mini layoutlm lfm2 llama llama4_text
markuplm mellum mimo_v2_flash minicpm3 minimax minimax_m2 minimax_m3_vl_text ministral3 mistral
mistral4 mixtral mlcd mlcd_vision_model mobilebert modernbert modernbert-decoder molmo2_text
moshi muse_glimmer_text nanochat nemotron nemotron_h nomic_bert olmo olmo2 olmo3 olmo_hybrid
olmoe openai_privacy_filter opt persimmon phi phi3 phimoe pixio qianfan_ocr_vision qwen2
qwen2_moe qwen3 qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next qwen3_vl_moe_text
qwen3_vl_text roberta roberta-prelayernorm sam3_vit_model sapiens2 sarvam_mla sarvam_moe
seed_oss sew siglip_vision_model smollm3 solar_open splinter stablelm starcoder2
tipsv2_text_model tipsv2_vision_model ultrabert unispeech unispeech-sat vaultgemma vit vit_mae
vit_msn wav2vec2 xlm-roberta xlm-roberta-xl youtu
""".split()

# Of these, the ones whose own code torch.compile breaks into several graphs.
NOT_WHOLE = {"ctrl"}

# By what the error says.
REFUSED = {
    "consists of several models": """
    aimv2 align altclip apertus1p5 aria audioflamingo3 aya_vision blip-2 blt canary
    chinese_clip clap clip clipseg cohere2_vision cohere_asr cosmos3_edge cosmos3_omni
    deepseek_vl deepseek_vl_hybrid deimv2 depth_pro dia dots3_note edgetam_video
    embedding_gemma2 exaone4_5 florence2 fun_asr_nano fuyu gemma3 gemma4 gemma4_unified git
    glm46v glm4v glm4v_moe glm5_next glm_image glm_ocr glmasr glmga granite_docling
    granite_speech5_ctc hy_v4_vl hyperclovax_vision_v2 idefics2 idefics3 inkling2
    inkling2_loop inkling_mm_model instructblip instructblipvideo internvl janus kimi_k25
    kosmos-2 kosmos-2.5 lasr_ctc lfm2_vl lfm3_vl lightglue lighton_ocr llama4 llava
    llava_next llava_next_video llava_onevision lw_detr metaclip_2 minicpm_ocr minicpmv4_6
    minicpmv4_7 minimax_m3_vl mistral3 mistral_large4 mllama modernvbert molmo2
    moss_transcribe_diarize muse_glimmer muse_spark musicflamingo nemo_speechlm
    nemotron3_5_asr nemotron3_5_transcribe_audio nemotron3_diarization
    nemotron_asr_streaming neucodec omniasr omniasr_ctc ovis2 owlv2 owlvit paddleocr_vl
    paligemma parakeet_ctc parakeet_rnnt parakeet_tdt pe_audio phi4_multimodal pi0
    pp_doclayout_v3 pp_doclayout_v4 pp_ocrv5_mobile_rec pp_ocrv5_server_rec
    pp_ocrv6_small_det pp_ocrv6_small_rec pp_ocrv6_tiny_rec qianfan_ocr qwen2_5_omni_thinker
    qwen2_5_vl qwen2_audio qwen2_vl qwen3_5 qwen3_5_moe qwen3_asr qwen3_omni_moe_thinker
    qwen3_vl qwen3_vl_moe qwen4_exp rf_detr rt_detr rt_detr_v2 sam sam2 sam2_video
    sam2_vision_model sam3 sam3_lite_text sam3_tracker sam3_tracker_video sam3_video
    sam3_vision_model sam_hq siglip siglip2 smolvlm step3p7 t5gemma t5gemma2 tipsv2
    ultravbert unlimited_ocr uvdoc vibevoice vibevoice_asr video_llama_3 video_llava
    videoprism vipllava vision-text-dual-encoder voxtral voxtral_realtime xclip xcodec
    xcodec2
    """.split(),
    "does not use transformers' attention interface": """
    bark big_bird blip bloom bros canine clvp convbert cpmant cvt data2vec-vision deberta
    deberta-v2 falcon fastspeech2_conformer fastspeech2_conformer_with_hifigan flaubert
    flava fsmt glpn got_ocr2 gpt_neo gpt_neox_japanese granite_speech granite_speech_plus
    grounding-dino groupvit hiera ibert imagegpt led levit lilt longformer luke lxmert
    mask2former megatron-bert mgp-str mm-grounding-dino mobilevit mobilevitv2 mpnet mpt mra
    mvp nystromformer oneformer openai-gpt perceiver prophetnet pvt pvt_v2 rembert roformer
    rwkv seggpt sew-d speecht5 squeezebert swiftformer tapas timesformer tvp vilt
    visual_bert vitdet vits wavlm wavtokenizer wavtokenizer_encoder xglm xlm xlnet yoso
    """.split(),
    "has no attention that can be replaced": """
    bamba bit convnext convnextv2 dac dinov3_convnext efficientnet encodec falcon_mamba fnet
    focalnet gemma3n_audio gemma4_audio glm_image_vqmodel granitemoehybrid hgnet_v2
    kimi_linear lfm3_vl_vision mamba mamba2 mobilenet_v1 mobilenet_v2 muse_spark_audio
    patchtsmixer poolformer recurrent_gemma regnet resnet sam3_lite_text_text_model
    sam_hq_vision_model sam_vision_model textnet univnet vibevoice_acoustic_tokenizer
    vibevoice_acoustic_tokenizer_decoder vibevoice_acoustic_tokenizer_encoder xlstm
    """.split(),
    "attends from one sequence to another": """
    bart bigbird_pegasus blenderbot blenderbot-small blip_2_qformer efficientloftr idefics
    longt5 m2m_100 marian mbart moonshine mt5 nllb-moe pegasus pegasus_x plbart seamless_m4t
    seamless_m4t_v2 speech_to_text switch_transformers t5 udop umt5 whisper
    """.split(),
    "a bias to its scores": """
    beit inkling2_loop_text inkling2_text inkling_text swin wav2vec2-conformer
    """.split(),
    "chooses (keys|blocks of keys) by itself": """
    axk2 deepseek_v32 dots3_note_text glm_moe_dsa hy_v4
    """.split(),
    "mask of (its own|pairs)": """
    doge pixtral
    """.split(),
}

# No small model of these is made here: they need another library, inputs or sizes of their own.
NOT_MADE = """
audio-spectrogram-transformer audioflamingo3_encoder autoformer bailing_hybrid bridgetower chameleon
cohere_compass cohere_compass_text cohere_compass_vision conditional_detr cosmos3_edge_text
cosmos3_edge_vision csm d_fine dab-detr dbrx decision_transformer deepseek_ocr2 deformable_detr detr
diffusion_gemma dinat donut-swin dory dots1 edgetam edgetam_vision_model emu3 ernie4_5_vl_moe esm
esmc exaone4_5_vision fast_vlm fun_asr_nano_encoder funnel gemma3n gemma3n_text gemma3n_vision
gemma4_text gemma4_vision glm4v_moe_text glm4v_moe_vision glm4v_text glm4v_vision glm5_next_text
glm5_next_vision glm_image_text glm_image_vision glm_ocr_text glm_ocr_vision glmasr_encoder
gradium_phonon_tts granite4_vision granite_docling_vision granite_speech5_encoder
higgs_audio_v2_tokenizer hunyuan_v1_dense hunyuan_v1_moe hunyuan_vl hunyuan_vl_text
hunyuan_vl_vision hy_v4_vl_text hy_v4_vl_vision idefics3_vision informer inkling2_vision
kimi_k25_vision kyutai_speech_to_text lasr_encoder layoutlmv2 layoutlmv3 lfm2_moe lfm3 longcat_flash
maskformer maskformer-swin mimi mimi_decoder mimi_encoder minicpm_ocr_vision minicpmv4_7_vision
ministral mistral_large4_text moonshine_streaming moss_transcribe_diarize_audio
muse_glimmer_assistant muse_glimmer_vision muse_spark_text muse_spark_vision musicgen
musicgen_melody nemotron3_5_transcribe_asr_audio nemotron3_5_transcribe_word_timestamp
nemotron3_diarization_audio nemotron_asr_streaming_encoder neomme omdet-turbo omniasr_audio
parakeet_encoder patchtst pe_audio_encoder pe_audio_video pe_audio_video_encoder pe_video
pe_video_encoder perception_lm pocket_tts pocket_tts_audio_tokenizer
pocket_tts_audio_tokenizer_decoder pocket_tts_audio_tokenizer_encoder pp_ocrv6_medium_det
qwen2_5_vl_text qwen2_5_vl_vision qwen2_audio_encoder qwen2_vl_text qwen3_5_moe_vision
qwen3_5_vision qwen3_asr_encoder qwen3_vl_moe_vision qwen3_vl_vision qwen4_exp_text qwen4_exp_vision
radio reformer roc_bert sam2_hiera_det_model segformer siglip2_vision_model smolvlm_vision swin2sr
swinv2 t5gemma2_encoder table-transformer time_series_transformer timesfm timesfm2_5 timm_backbone
timm_wrapper video_llama_3_vision videomae videoprism_vision_model vivit vjepa2 voxtral_encoder
voxtral_realtime_encoder voxtral_realtime_text wav2vec2-bert xmod yolos zamba zamba2 zaya
""".split()
