BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v3.2.0.a');
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO "studies" VALUES(1,'before');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_directions" VALUES(1,'MAXIMIZE',1,0);
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_user_attributes" VALUES(1,1,'identity','"06f6c3afca8144608b363a7b31209864"');
INSERT INTO "study_user_attributes" VALUES(2,1,'driver','{"pid": 31423, "host": "elsewhere", "at": 1795996866.4682539}');
INSERT INTO "study_user_attributes" VALUES(3,1,'facts','{"request": {"fixed": {"model.backbone": "resnet18", "model.weights": "none", "model.image_min_side": 64, "model.image_max_side": 64, "model.proposals_train": 32, "model.proposals_test": 32, "model.rpn_samples": 32, "model.box_samples": 16, "predict.max_detections": 20, "optim.epochs": 3}, "space": {"optim.learning_rate": {"low": 1e-05, "high": 0.01, "log": true}, "optim.restarts": {"choices": [0, 1]}, "optim.restart_multiplier": {"choices": [1.0, 2.0], "when": {"optim.restarts": [1]}}}, "start": [{"optim.learning_rate": 0.001}], "search": {"sampler": "tpe", "seed": 0}, "stop_early": {"rule": "successive_halving", "min_epochs": 1, "reduction": 2}}, "data": "c0ef6ae9d8a98ed97ce85a9202edb619d359886d943e2c3dbd918aeddd9fa794", "weights": {}}');
INSERT INTO "study_user_attributes" VALUES(4,1,'mlflow_run 0','"6d244242c21040788d796a87399df2d6"');
INSERT INTO "study_user_attributes" VALUES(5,1,'mlflow_run 1','"85ec998491144d50ae3e83f3715b8b3f"');
INSERT INTO "study_user_attributes" VALUES(6,1,'mlflow_run 2','"e7e13e8923be4567b1ff0ed8b0acc99a"');
INSERT INTO "study_user_attributes" VALUES(7,1,'mlflow_run 3','"dc86e2e9a07a48c4a24d838dff1459fd"');
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_intermediate_values (
	trial_intermediate_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	intermediate_value FLOAT, 
	intermediate_value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_intermediate_value_id), 
	UNIQUE (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_intermediate_values" VALUES(1,1,1,0.0,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(2,1,2,2.56060088767497433161e-04,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(3,1,3,0.0,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(4,2,1,0.0,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(5,2,2,0.0,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(6,3,1,0.0,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(7,3,2,0.0,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(8,4,1,0.0,'FINITE');
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	param_name VARCHAR(512), 
	param_value FLOAT, 
	distribution_json TEXT, 
	PRIMARY KEY (param_id), 
	UNIQUE (trial_id, param_name), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_params" VALUES(1,1,'optim.learning_rate',0.001,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.01, "log": true}}');
INSERT INTO "trial_params" VALUES(2,1,'optim.restarts',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(3,2,'optim.learning_rate',3.55515976827398523865e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.01, "log": true}}');
INSERT INTO "trial_params" VALUES(4,2,'optim.restarts',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(5,3,'optim.learning_rate',7.40264862280043400843e-04,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.01, "log": true}}');
INSERT INTO "trial_params" VALUES(6,3,'optim.restarts',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(7,4,'optim.learning_rate',1.24561403771644390431e-05,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.01, "log": true}}');
INSERT INTO "trial_params" VALUES(8,4,'optim.restarts',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1]}}');
INSERT INTO "trial_params" VALUES(9,4,'optim.restart_multiplier',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1.0, 2.0]}}');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_system_attributes" VALUES(1,1,'fixed_params','{"optim.learning_rate": 0.001}');
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_user_attributes" VALUES(1,1,'name','""');
INSERT INTO "trial_user_attributes" VALUES(2,1,'settings','{"seed": 0, "data.validation_fraction": 0.2, "data.folds": 0, "data.fold": 0, "data.split_seed": 0, "data.group_pattern": "", "data.skip_bad": false, "data.allow_suspicious": false, "data.split_components": false, "data.crop": 0, "augment.horizontal_flip": false, "augment.color_jitter": false, "augment.affine": false, "augment.elastic": false, "augment.blur_or_noise": false, "augment.horizontal_flip_p": 0.5, "augment.color_jitter_p": 0.2, "augment.brightness": 0.2, "augment.contrast": 0.2, "augment.hue": 20, "augment.saturation": 30, "augment.value": 20, "augment.affine_p": 0.5, "augment.shift": 0.05, "augment.scale": 0.1, "augment.rotate": 15, "augment.elastic_p": 0.5, "augment.elastic_alpha": 60, "augment.elastic_sigma": 6, "augment.blur_or_noise_p": 0.3, "model.detector": "fpn", "model.backbone": "resnet18", "model.weights": "none", "model.stride_in_1x1": false, "model.trainable_layers": 1, "model.trainable_fpn": true, "model.image_min_side": 64, "model.image_max_side": 64, "model.anchor_scale": 1.0, "model.proposals_train": 32, "model.proposals_test": 32, "model.rpn_samples": 32, "model.box_samples": 16, "optim.learning_rate": 0.001, "optim.weight_decay": 0.01, "optim.epochs": 3, "optim.batch_size": 2, "optim.restarts": 0, "optim.restart_multiplier": 1, "optim.warmup_epochs": 0, "optim.gradient_clip": 0, "optim.precision": "fp32", "predict.score_threshold": 0.05, "predict.nms_iou": 0.5, "predict.max_detections": 20, "predict.flips": false, "predict.tile": 0, "metric.max_dets": 100}');
INSERT INTO "trial_user_attributes" VALUES(3,1,'attempts','1');
INSERT INTO "trial_user_attributes" VALUES(4,1,'gpu_share','0.0');
INSERT INTO "trial_user_attributes" VALUES(5,1,'epoch 1','{"epoch": 1, "losses": {"loss_classifier": 5.057107119183791, "loss_box_reg": 2.315307880702772, "loss_mask": 5.110634515160008, "loss_objectness": 0.43461152126914576, "loss_rpn_box_reg": 1.1253221035003662, "loss": 14.042983481758519}, "learning_rate": 0.0007938926261462366, "ap50": 0.0, "ap50_uncapped": 0.0, "ap50_box": 0.0, "ap50_per_class": [0.0, 0.0, 0.0, 0.0], "seconds": 17.450192481999693, "train_seconds": 14.282342688999051, "evaluate_seconds": 3.1678497930006415, "images_per_second": 1.330313969754746, "peak_memory_bytes": null, "steps": 10, "detections": 100, "wait_seconds": 0.06981911800903617, "capped_images": 5, "coco": {}, "at": 1795996657380}');
INSERT INTO "trial_user_attributes" VALUES(6,1,'epoch 2','{"epoch": 2, "losses": {"loss_classifier": 1.165509647444675, "loss_box_reg": 0.5417038555208006, "loss_mask": 0.6212232803043566, "loss_objectness": 0.3080564972601439, "loss_rpn_box_reg": 0.6614665342004675, "loss": 3.297959754341527}, "learning_rate": 0.0002966316784621, "ap50": 0.00025606008876749743, "ap50_uncapped": 0.00025606008876749743, "ap50_box": 0.00025606008876749743, "ap50_per_class": [0.0, 0.0010242403550699897, 0.0, 0.0], "seconds": 17.575971328002197, "train_seconds": 14.443461802002275, "evaluate_seconds": 3.1325095259999216, "images_per_second": 1.3154741058937864, "peak_memory_bytes": null, "steps": 10, "detections": 100, "wait_seconds": 0.010509566000109771, "capped_images": 5, "coco": {}, "at": 1795996679820}');
INSERT INTO "trial_user_attributes" VALUES(7,1,'epoch 3','{"epoch": 3, "losses": {"loss_classifier": 0.82712742843126, "loss_box_reg": 0.1972254726447557, "loss_mask": 0.5216117313033656, "loss_objectness": 0.3075253853672429, "loss_rpn_box_reg": 0.4708475156834251, "loss": 2.3243374824523926}, "learning_rate": 2.7390523158632995e-06, "ap50": 0.0, "ap50_uncapped": 0.0, "ap50_box": 0.0, "ap50_per_class": [0.0, 0.0, 0.0, 0.0], "seconds": 16.275801534000493, "train_seconds": 12.945283537999785, "evaluate_seconds": 3.330517996000708, "images_per_second": 1.467716017515345, "peak_memory_bytes": null, "steps": 10, "detections": 94, "wait_seconds": 0.04226046798794414, "capped_images": 3, "coco": {"AP": 0.0, "AP50": 0.0, "AP75": 0.0, "AP_small": 0.0, "AP_medium": null, "AP_large": null, "AR_1": 0.0, "AR_10": 0.0, "AR_100": 0.0, "AR_small": 0.0, "AR_medium": null, "AR_large": null}, "at": 1795996699193}');
INSERT INTO "trial_user_attributes" VALUES(8,2,'name','""');
INSERT INTO "trial_user_attributes" VALUES(9,2,'settings','{"seed": 0, "data.validation_fraction": 0.2, "data.folds": 0, "data.fold": 0, "data.split_seed": 0, "data.group_pattern": "", "data.skip_bad": false, "data.allow_suspicious": false, "data.split_components": false, "data.crop": 0, "augment.horizontal_flip": false, "augment.color_jitter": false, "augment.affine": false, "augment.elastic": false, "augment.blur_or_noise": false, "augment.horizontal_flip_p": 0.5, "augment.color_jitter_p": 0.2, "augment.brightness": 0.2, "augment.contrast": 0.2, "augment.hue": 20, "augment.saturation": 30, "augment.value": 20, "augment.affine_p": 0.5, "augment.shift": 0.05, "augment.scale": 0.1, "augment.rotate": 15, "augment.elastic_p": 0.5, "augment.elastic_alpha": 60, "augment.elastic_sigma": 6, "augment.blur_or_noise_p": 0.3, "model.detector": "fpn", "model.backbone": "resnet18", "model.weights": "none", "model.stride_in_1x1": false, "model.trainable_layers": 1, "model.trainable_fpn": true, "model.image_min_side": 64, "model.image_max_side": 64, "model.anchor_scale": 1.0, "model.proposals_train": 32, "model.proposals_test": 32, "model.rpn_samples": 32, "model.box_samples": 16, "optim.learning_rate": 0.0035551597682739852, "optim.weight_decay": 0.01, "optim.epochs": 3, "optim.batch_size": 2, "optim.restarts": 0, "optim.restart_multiplier": 1, "optim.warmup_epochs": 0, "optim.gradient_clip": 0, "optim.precision": "fp32", "predict.score_threshold": 0.05, "predict.nms_iou": 0.5, "predict.max_detections": 20, "predict.flips": false, "predict.tile": 0, "metric.max_dets": 100}');
INSERT INTO "trial_user_attributes" VALUES(10,2,'attempts','1');
INSERT INTO "trial_user_attributes" VALUES(11,2,'gpu_share','0.0');
INSERT INTO "trial_user_attributes" VALUES(12,2,'epoch 1','{"epoch": 1, "losses": {"loss_classifier": 160.59093791560122, "loss_box_reg": 112.80792087002804, "loss_mask": 111.5815409610146, "loss_objectness": 1.3505828380584717, "loss_rpn_box_reg": 18.910579016334133, "loss": 405.2415549629613}, "learning_rate": 0.00282241512480448, "ap50": 0.0, "ap50_uncapped": 0.0, "ap50_box": 0.0, "ap50_per_class": [0.0, 0.0, 0.0, 0.0], "seconds": 12.561381619998429, "train_seconds": 12.007418528999551, "evaluate_seconds": 0.5539630909988773, "images_per_second": 1.5823551043975366, "peak_memory_bytes": null, "steps": 10, "detections": 0, "wait_seconds": 0.016612145002000034, "capped_images": 0, "coco": {}, "at": 1795996716482}');
INSERT INTO "trial_user_attributes" VALUES(13,2,'epoch 2','{"epoch": 2, "losses": {"loss_classifier": 21.852295950839395, "loss_box_reg": 24.856222027226497, "loss_mask": 3.009177145205046, "loss_objectness": 0.771820887138969, "loss_rpn_box_reg": 5.956397759286981, "loss": 56.44591256191856}, "learning_rate": 0.0010545730092640427, "ap50": 0.0, "ap50_uncapped": 0.0, "ap50_box": 0.0, "ap50_per_class": [0.0, 0.0, 0.0, 0.0], "seconds": 12.335429536000447, "train_seconds": 11.641421968000941, "evaluate_seconds": 0.6940075679995061, "images_per_second": 1.6321030242032082, "peak_memory_bytes": null, "steps": 10, "detections": 5, "wait_seconds": 0.022604577996389708, "capped_images": 0, "coco": {}, "at": 1795996732016}');
INSERT INTO "trial_user_attributes" VALUES(14,2,'reason','"stopped early after epoch 2: not among the best 1 in 2 at this rung"');
INSERT INTO "trial_user_attributes" VALUES(15,3,'name','""');
INSERT INTO "trial_user_attributes" VALUES(16,3,'settings','{"seed": 0, "data.validation_fraction": 0.2, "data.folds": 0, "data.fold": 0, "data.split_seed": 0, "data.group_pattern": "", "data.skip_bad": false, "data.allow_suspicious": false, "data.split_components": false, "data.crop": 0, "augment.horizontal_flip": false, "augment.color_jitter": false, "augment.affine": false, "augment.elastic": false, "augment.blur_or_noise": false, "augment.horizontal_flip_p": 0.5, "augment.color_jitter_p": 0.2, "augment.brightness": 0.2, "augment.contrast": 0.2, "augment.hue": 20, "augment.saturation": 30, "augment.value": 20, "augment.affine_p": 0.5, "augment.shift": 0.05, "augment.scale": 0.1, "augment.rotate": 15, "augment.elastic_p": 0.5, "augment.elastic_alpha": 60, "augment.elastic_sigma": 6, "augment.blur_or_noise_p": 0.3, "model.detector": "fpn", "model.backbone": "resnet18", "model.weights": "none", "model.stride_in_1x1": false, "model.trainable_layers": 1, "model.trainable_fpn": true, "model.image_min_side": 64, "model.image_max_side": 64, "model.anchor_scale": 1.0, "model.proposals_train": 32, "model.proposals_test": 32, "model.rpn_samples": 32, "model.box_samples": 16, "optim.learning_rate": 0.0007402648622800434, "optim.weight_decay": 0.01, "optim.epochs": 3, "optim.batch_size": 2, "optim.restarts": 0, "optim.restart_multiplier": 1, "optim.warmup_epochs": 0, "optim.gradient_clip": 0, "optim.precision": "fp32", "predict.score_threshold": 0.05, "predict.nms_iou": 0.5, "predict.max_detections": 20, "predict.flips": false, "predict.tile": 0, "metric.max_dets": 100}');
INSERT INTO "trial_user_attributes" VALUES(17,3,'attempts','1');
INSERT INTO "trial_user_attributes" VALUES(18,3,'gpu_share','0.0');
INSERT INTO "trial_user_attributes" VALUES(19,3,'epoch 1','{"epoch": 1, "losses": {"loss_classifier": 4.028582704694648, "loss_box_reg": 2.2308202542756734, "loss_mask": 3.7536032576310006, "loss_objectness": 0.43922772846723857, "loss_rpn_box_reg": 1.001971263634531, "loss": 11.454205211840177}, "learning_rate": 0.0005876908155592858, "ap50": 0.0, "ap50_uncapped": 0.0, "ap50_box": 0.0, "ap50_per_class": [0.0, 0.0, 0.0, 0.0], "seconds": 17.175220783999976, "train_seconds": 14.201350483002898, "evaluate_seconds": 2.9738703009970777, "images_per_second": 1.3379009286997345, "peak_memory_bytes": null, "steps": 10, "detections": 80, "wait_seconds": 0.047518057999695884, "capped_images": 2, "coco": {}, "at": 1795996754156}');
INSERT INTO "trial_user_attributes" VALUES(20,3,'epoch 2','{"epoch": 2, "losses": {"loss_classifier": 1.2676408761426021, "loss_box_reg": 0.5459358315718802, "loss_mask": 0.6714125589320534, "loss_objectness": 0.31857787778503016, "loss_rpn_box_reg": 0.6551172309800198, "loss": 3.458684381685759}, "learning_rate": 0.00021958600860464455, "ap50": 0.0, "ap50_uncapped": 0.0, "ap50_box": 0.0, "ap50_per_class": [0.0, 0.0, 0.0, 0.0], "seconds": 17.173207637002633, "train_seconds": 14.007057652001095, "evaluate_seconds": 3.166149985001539, "images_per_second": 1.3564590417235556, "peak_memory_bytes": null, "steps": 10, "detections": 77, "wait_seconds": 0.0598403940020944, "capped_images": 2, "coco": {}, "at": 1795996774722}');
INSERT INTO "trial_user_attributes" VALUES(21,3,'reason','"stopped early after epoch 2: not among the best 1 in 2 at this rung"');
INSERT INTO "trial_user_attributes" VALUES(22,4,'name','""');
INSERT INTO "trial_user_attributes" VALUES(23,4,'settings','{"seed": 0, "data.validation_fraction": 0.2, "data.folds": 0, "data.fold": 0, "data.split_seed": 0, "data.group_pattern": "", "data.skip_bad": false, "data.allow_suspicious": false, "data.split_components": false, "data.crop": 0, "augment.horizontal_flip": false, "augment.color_jitter": false, "augment.affine": false, "augment.elastic": false, "augment.blur_or_noise": false, "augment.horizontal_flip_p": 0.5, "augment.color_jitter_p": 0.2, "augment.brightness": 0.2, "augment.contrast": 0.2, "augment.hue": 20, "augment.saturation": 30, "augment.value": 20, "augment.affine_p": 0.5, "augment.shift": 0.05, "augment.scale": 0.1, "augment.rotate": 15, "augment.elastic_p": 0.5, "augment.elastic_alpha": 60, "augment.elastic_sigma": 6, "augment.blur_or_noise_p": 0.3, "model.detector": "fpn", "model.backbone": "resnet18", "model.weights": "none", "model.stride_in_1x1": false, "model.trainable_layers": 1, "model.trainable_fpn": true, "model.image_min_side": 64, "model.image_max_side": 64, "model.anchor_scale": 1.0, "model.proposals_train": 32, "model.proposals_test": 32, "model.rpn_samples": 32, "model.box_samples": 16, "optim.learning_rate": 1.2456140377164439e-05, "optim.weight_decay": 0.01, "optim.epochs": 3, "optim.batch_size": 2, "optim.restarts": 1, "optim.restart_multiplier": 1.0, "optim.warmup_epochs": 0, "optim.gradient_clip": 0, "optim.precision": "fp32", "predict.score_threshold": 0.05, "predict.nms_iou": 0.5, "predict.max_detections": 20, "predict.flips": false, "predict.tile": 0, "metric.max_dets": 100}');
INSERT INTO "trial_user_attributes" VALUES(24,4,'attempts','1');
INSERT INTO "trial_user_attributes" VALUES(25,4,'gpu_share','0.0');
INSERT INTO "trial_user_attributes" VALUES(26,4,'epoch 1','{"epoch": 1, "losses": {"loss_classifier": 1.0013362828053927, "loss_box_reg": 0.057178034594184475, "loss_mask": 2.1754545977241113, "loss_objectness": 0.6758561385305304, "loss_rpn_box_reg": 1.5544557571411133, "loss": 5.46428088137978}, "learning_rate": 4.303490658150331e-06, "ap50": 0.0, "ap50_uncapped": 0.0, "ap50_box": 0.0, "ap50_per_class": [0.0, 0.0, 0.0, 0.0], "seconds": 15.422014260999276, "train_seconds": 12.170816493999155, "evaluate_seconds": 3.2511977670001215, "images_per_second": 1.5611113690990237, "peak_memory_bytes": null, "steps": 10, "detections": 100, "wait_seconds": 0.025480574993707705, "capped_images": 5, "coco": {}, "at": 1795996895173}');
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	value FLOAT, 
	value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_value_id), 
	UNIQUE (trial_id, objective), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_values" VALUES(1,1,0,2.56060088767497433161e-04,'FINITE');
INSERT INTO "trial_values" VALUES(2,2,0,0.0,'FINITE');
INSERT INTO "trial_values" VALUES(3,3,0,0.0,'FINITE');
CREATE TABLE trials (
	trial_id INTEGER NOT NULL, 
	number INTEGER, 
	study_id INTEGER, 
	state VARCHAR(8) NOT NULL, 
	datetime_start DATETIME, 
	datetime_complete DATETIME, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "trials" VALUES(1,0,1,'COMPLETE','2026-11-29 23:56:50.579864','2026-11-29 23:58:19.198561');
INSERT INTO "trials" VALUES(2,1,1,'PRUNED','2026-11-29 23:58:19.329242','2026-11-29 23:58:52.021770');
INSERT INTO "trials" VALUES(3,2,1,'PRUNED','2026-11-29 23:58:52.207987','2026-11-29 23:59:34.727458');
INSERT INTO "trials" VALUES(4,3,1,'RUNNING','2026-11-30 00:00:57.578036',NULL);
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO "version_info" VALUES(1,12,'5.0.0');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE INDEX ix_trials_study_id ON trials (study_id);
COMMIT;
